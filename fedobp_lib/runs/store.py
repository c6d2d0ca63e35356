"""Runs on disk: computed once, continued after an interruption, never half-written.

A run is the folder `runs/ID/`, where ID is a hash of the configuration, the data and the
partition; the device does not count, since it changes results by rounding only. It holds

    config.json    the resolved configuration and the fingerprints of data and partition
    history.csv    round, stage, scope, average, accuracy (percent), loss (nats)
    layers.csv     round, layer, parameters, personalized (mean count over the cohort)
    clients.csv    every client after the last round
    summary.json   final numbers, times, provenance and checksums; written last: it marks a
                   finished run
    checkpoint.pt  only while the run is unfinished
    bank-*.rows    likewise, where the rows of clients are kept on disk
    .lease         only while a process computes the run (`lease`)

A finished run whose files are not as they were written counts as missing (`integrity`). A run may
end early because it diverged; then `summary.json` says in which round and by which client.
"""

from __future__ import annotations

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
from ..typed import without_added
from .files import damaged, read_csv, read_json
from .integrity import fault, is_complete

OTHER_VERSION = "version "  # begins the state of a run of a version that computed other numbers
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

    @property
    def diverged(self) -> dict[str, Any] | None:
        """Of a run that diverged: `round`, `client` (None: not known) and `what`."""
        return self.summary.get("diverged")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Final numbers, times and provenance."""
        path = self.directory / "summary.json"
        summary = read_json(path)
        if not is_complete(summary):
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
        """One accuracy in percent; NaN if the run diverged.

        Args:
            stage, scope, average: see `fedobp_lib.training.evaluation`.
            which: `last` evaluated round, or `best` of the evaluated rounds (the metric of
                the published tables).

        Raises:
            UserError: it was not evaluated.
        """
        if self.diverged:
            return float("nan")
        rows = self.history.query("stage == @stage and scope == @scope and average == @average")
        if rows.empty:
            raise UserError(f"run {self.run_id} has no accuracy {stage}/{scope}/{average}")
        return float(rows["accuracy"].max() if which == "best" else rows["accuracy"].iloc[-1])


def run_id(config: ResolvedConfig, data: ImageData) -> str:
    """Name of a run: 12 hex digits of a hash over all that decides its numbers."""
    known = without_added(type(config), asdict(config))
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
    """Whether a run is there, with its files as they were written."""
    return (folder / "summary.json").is_file() and fault(folder) is None


def damage(folder: Path) -> str | None:
    """What is wrong with a run that was finished once; None: nothing, or it never was."""
    return fault(folder) if (folder / "summary.json").is_file() else None


def list_runs(directory: str | Path | None = None) -> pd.DataFrame:
    """One row a run folder: id, state, method, dataset, alpha, seed, rounds, accuracies.

    The state is `done`, `partial`, `diverged`, `damaged` or, of a run made by a version of the kit
    that computed other numbers, `version N`.
    """
    rows = [_row(RunResult(folder)) for folder in folders(directory)]
    frame = pd.DataFrame(rows, columns=["run_id", "state", *SHOWN, "before", "after"])
    # A damaged run may lack them; the others keep their look.
    frame = frame.astype({"seed": "Int64", "rounds": "Int64"})
    return frame.sort_values(["dataset", "alpha", "method", "seed"], ignore_index=True)


def _row(result: RunResult) -> dict[str, Any]:
    row: dict[str, Any] = {"run_id": result.run_id, "state": "damaged"}
    try:
        found = state(result.directory)
        if found.startswith(OTHER_VERSION):  # first, as another version may have other fields
            row["state"] = found
        row |= {name: getattr(result.config, name) for name in SHOWN}
        if found == "done":
            final = result.summary["final"]
            row |= {stage: numbers["pooled"] for stage, numbers in final.items()}
        row["state"] = found
        return row
    except UserError:
        return row


def folders(directory: str | Path | None = None) -> list[Path]:
    """The folders of all runs, finished or not.

    Raises:
        UserError: what should hold them is a file.
    """
    home = Path(directory) if directory is not None else paths.runs_dir()
    if home.is_file():
        raise UserError(f"{home} is a file, not a folder of runs")
    found = sorted(home.glob("*/")) if home.is_dir() else []
    marks = ("config.json", "summary.json")
    return [f for f in found if ".bad" not in f.name and any((f / m).is_file() for m in marks)]


def state(folder: Path) -> str:
    """The state of a run folder; see `list_runs`."""
    if not (folder / "summary.json").is_file():
        return "partial"
    if fault(folder):
        return "damaged"
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        return "damaged"
    version = config.get("results_version", RESULTS_VERSION)
    if version != RESULTS_VERSION:
        return f"{OTHER_VERSION}{version}"
    return "diverged" if RunResult(folder).diverged else "done"


def find_run(run: str, directory: str | Path | None = None) -> RunResult:
    """A finished run by its id, an unambiguous beginning of it, or the path of its folder.

    Raises:
        UserError: none or several match, or the run is unfinished.
    """
    home = Path(directory) if directory is not None else paths.runs_dir()
    if (Path(run) / "summary.json").is_file():
        return RunResult(Path(run).resolve())
    # The path may be relative to the project, as it was printed.
    found = [f for f in folders(home) if f.name.startswith(Path(run).name)]
    if len(found) != 1:
        many = "no run" if not found else f"{len(found)} runs"
        raise UserError(f"{many} in {paths.shown(home)} with an id that begins with {run!r}")
    reason = damage(found[0])
    if reason:
        raise UserError(f"run {found[0].name} is damaged: {reason}")
    if not is_finished(found[0]):
        raise UserError(f"run {found[0].name} is not finished")
    return RunResult(found[0])
