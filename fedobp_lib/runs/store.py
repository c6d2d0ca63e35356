"""Runs on disk: computed once, continued after an interruption, never half-written.

A run is the folder `runs/ID/`, where ID is a hash of the configuration, the data and the
partition; the device does not count, since it changes results by rounding only. It holds

    config.json    the resolved configuration and the fingerprints of data and partition
    history.csv    round, stage, scope, average, accuracy (percent), loss (nats)
    layers.csv     round, layer, parameters, personalized (mean count over the cohort)
    clients.csv    every client after the last round
    summary.json   final numbers, times and provenance; written last: it marks a finished run
    checkpoint.pt  only while the run is unfinished
"""

from __future__ import annotations

import glob
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from .. import paths
from ..config import RESULTS_VERSION, ResolvedConfig
from ..data.datasets import load, locate
from ..data.images import ImageData
from ..errors import UserError
from ..methods import METHODS, added_settings, find_method, identity
from ..simulation import HISTORY, LAYERS
from .files import damaged, is_whole, read_csv, read_json

# What every summary has.
SUMMARY = ("final", "personalized_parameters")
SHOWN = ("method", "dataset", "alpha", "seed", "rounds")  # in a list of runs


@dataclass(frozen=True)
class RunResult:
    """A finished run, read from its folder."""

    directory: Path

    @property
    def run_id(self) -> str:
        return self.directory.name

    @cached_property
    def config(self) -> ResolvedConfig:
        """The resolved configuration; settings that came after the run have their defaults."""
        path = self.directory / "config.json"
        try:
            known = read_json(path)["config"]
            later = added_settings(METHODS[known["method"]]) if known["method"] in METHODS else {}
            return ResolvedConfig(**(known | {"settings": later | known["settings"]}))
        except (KeyError, TypeError) as error:
            raise damaged(path) from error

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Final numbers, times and provenance."""
        path = self.directory / "summary.json"
        summary = read_json(path)
        if not isinstance(summary, dict) or not set(SUMMARY) <= set(summary):
            raise damaged(path)
        return summary

    @cached_property
    def history(self) -> pd.DataFrame:
        """Tidy: round, stage, scope, average, accuracy (percent), loss (nats)."""
        path = self.directory / "history.csv"
        frame = read_csv(path, HISTORY)
        # Cut between two lines it is a table still, but lacks what was tested last.
        last = frame[(frame["round"] == self.config.rounds) & (frame["scope"] == "all")]
        final = {(stage, kind) for stage, of in self.summary["final"].items() for kind in of}
        if not final <= set(zip(last["stage"], last["average"], strict=True)):
            raise damaged(path)
        return frame

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Tidy: round, layer, parameters, personalized."""
        return read_csv(self.directory / "layers.csv", LAYERS)

    @cached_property
    def clients(self) -> pd.DataFrame:
        """One row a client after the last round."""
        return read_csv(self.directory / "clients.csv", ("test_samples",))

    def accuracy(
        self,
        stage: str = "before",
        scope: str = "all",
        average: str = "pooled",
        which: str = "last",
    ) -> float:
        """One accuracy in percent.

        Args:
            stage, scope, average: see `fedobp_lib.training.evaluation`.
            which: `last` evaluated round, or `best` of the evaluated rounds (the metric of
                the published tables).

        Raises:
            UserError: it was not evaluated.
        """
        rows = self.history.query("stage == @stage and scope == @scope and average == @average")
        if rows.empty:
            raise UserError(f"run {self.run_id} has no accuracy {stage}/{scope}/{average}")
        return float(rows["accuracy"].max() if which == "best" else rows["accuracy"].iloc[-1])


def run_id(config: ResolvedConfig, data: ImageData) -> str:
    """Name of a run: 12 hex digits of a hash over all that decides its numbers."""
    known = asdict(config)
    known["settings"] = identity(find_method(config.method), config.settings)
    if config.split is not None:
        known["partition"] = config.split.fingerprint
        # The file decides these.
        for name in ("clients", "partition_seed", "test_share", "min_samples"):
            known[name] = None
    known["data"] = data.fingerprint
    known["results_version"] = RESULTS_VERSION
    text = json.dumps(known, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def load_data(name: str) -> ImageData:
    """The data set, kept in memory for the next run on it, as long as its file is the same."""
    path = locate(name)
    if path is None:
        return _kept(name, ())
    state = path.stat()
    return _kept(name, (str(path.resolve()), state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=2)
def _kept(name: str, file: tuple[str | int, ...]) -> ImageData:
    # The file's place, time and size are there to tell a replaced file from the old one.
    return load(name)


def is_finished(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def list_runs(directory: str | Path | None = None) -> pd.DataFrame:
    """One row a run folder: id, state, method, dataset, alpha, seed, rounds, accuracies.

    States: done, partial, or damaged, where a file cannot be read.
    """
    home = Path(directory) if directory is not None else paths.runs_dir()
    rows = []
    for folder in sorted(home.glob("*/")) if home.is_dir() else []:
        if is_finished(folder) or (folder / "config.json").is_file():
            rows.append(_row(RunResult(folder)))
    frame = pd.DataFrame(rows, columns=["run_id", "state", *SHOWN, "before", "after"])
    # A damaged run may lack them; the others keep their look.
    frame = frame.astype({"seed": "Int64", "rounds": "Int64"})
    return frame.sort_values(["dataset", "alpha", "method", "seed"], ignore_index=True)


def _row(result: RunResult) -> dict[str, Any]:
    row: dict[str, Any] = {"run_id": result.run_id, "state": "damaged"}
    try:
        row |= {k: getattr(result.config, k) for k in SHOWN}
        if not is_finished(result.directory):
            return row | {"state": "partial"}
        final = {stage: numbers["pooled"] for stage, numbers in result.summary["final"].items()}
        # To read every history would take long.
        whole = is_whole(result.directory / "history.csv")
        return row | final | {"state": "done" if whole else "damaged"}
    except UserError:
        return row


def find_run(run: str, directory: str | Path | None = None) -> RunResult:
    """A finished run by its id, an unambiguous beginning of it, or the path of its folder.

    Raises:
        UserError: none or several match, or the run is unfinished.
    """
    home = Path(directory) if directory is not None else paths.runs_dir()
    if (Path(run) / "summary.json").is_file():
        return RunResult(Path(run).resolve())
    # The path may be relative to the project, as it was printed.
    start = glob.escape(Path(run).name)
    found = [f for f in sorted(home.glob(f"{start}*/")) if (f / "config.json").is_file()]
    if len(found) != 1:
        many = "no run" if not found else f"{len(found)} runs"
        raise UserError(f"{many} in {paths.shown(home)} with an id that begins with {run!r}")
    if not is_finished(found[0]):
        raise UserError(f"run {found[0].name} is not finished")
    return RunResult(found[0])
