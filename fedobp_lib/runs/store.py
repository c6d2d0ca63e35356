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
from ..data.datasets import load
from ..data.images import ImageData
from ..errors import UserError
from ..methods import METHODS, added_settings, find_method, identity
from .files import read_json
from .integrity import fault


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
        known = read_json(self.directory / "config.json")["config"]
        later = added_settings(METHODS[known["method"]]) if known["method"] in METHODS else {}
        return ResolvedConfig(**(known | {"settings": later | known["settings"]}))

    @property
    def diverged(self) -> dict[str, Any] | None:
        """Of a run that diverged: `round`, `client` (None: not known) and `what`."""
        return self.summary.get("diverged")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Final numbers, times and provenance."""
        return read_json(self.directory / "summary.json")

    @cached_property
    def history(self) -> pd.DataFrame:
        """Tidy: round, stage, scope, average, accuracy (percent), loss (nats)."""
        return pd.read_csv(self.directory / "history.csv")

    @cached_property
    def layers(self) -> pd.DataFrame:
        """Tidy: round, layer, parameters, personalized."""
        return pd.read_csv(self.directory / "layers.csv")

    @cached_property
    def clients(self) -> pd.DataFrame:
        """One row a client after the last round."""
        return pd.read_csv(self.directory / "clients.csv")

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


@lru_cache(maxsize=2)
def load_data(name: str) -> ImageData:
    """The data set, kept in memory for the next run on it."""
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
    rows = []
    for folder in folders(directory):
        row = {"run_id": folder.name, "state": state(folder)}
        try:
            config = read_json(folder / "config.json")["config"]
            row |= {k: config[k] for k in ("method", "dataset", "alpha", "seed", "rounds")}
            if row["state"] == "done":
                final = read_json(folder / "summary.json")["final"]
                row |= {stage: numbers["pooled"] for stage, numbers in final.items()}
        except (UserError, KeyError, TypeError):
            row["state"] = "damaged"
        rows.append(row)
    columns = ["run_id", "state", "method", "dataset", "alpha", "seed", "rounds"]
    frame = pd.DataFrame(rows, columns=[*columns, "before", "after"])
    return frame.sort_values(["dataset", "alpha", "method", "seed"], ignore_index=True)


def folders(directory: str | Path | None = None) -> list[Path]:
    """The folders of all runs, finished or not."""
    home = Path(directory) if directory is not None else paths.runs_dir()
    found = sorted(home.glob("*/")) if home.is_dir() else []
    marks = ("config.json", "summary.json")
    return [f for f in found if ".bad" not in f.name and any((f / m).is_file() for m in marks)]


def state(folder: Path) -> str:
    """The state of a run folder; see `list_runs`."""
    if not (folder / "summary.json").is_file():
        return "partial"
    if fault(folder):
        return "damaged"
    version = read_json(folder / "config.json").get("results_version", RESULTS_VERSION)
    if version != RESULTS_VERSION:
        return f"version {version}"
    return "diverged" if RunResult(folder).diverged else "done"


def find_run(run: str, directory: str | Path | None = None) -> RunResult:
    """A finished run by its id or an unambiguous beginning of it.

    Raises:
        UserError: none or several match, or the run is unfinished.
    """
    home = Path(directory) if directory is not None else paths.runs_dir()
    found = [f for f in folders(home) if f.name.startswith(run)]
    if len(found) != 1:
        many = "no run" if not found else f"{len(found)} runs"
        raise UserError(f"{many} in {paths.shown(home)} with an id that begins with {run!r}")
    reason = damage(found[0])
    if reason:
        raise UserError(f"run {found[0].name} is damaged: {reason}")
    if not is_finished(found[0]):
        raise UserError(f"run {found[0].name} is not finished")
    return RunResult(found[0])
