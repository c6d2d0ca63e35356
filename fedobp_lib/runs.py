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

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from . import datasets, paths
from .config import RESULTS_VERSION, RunConfig
from .errors import UserError
from .evaluation import AVERAGES
from .partition import Partition
from .progress import progress_bar
from .simulation import Simulation, choose_device
from .training import Backend

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class RunResult:
    """A finished run, read from its folder."""

    directory: Path

    @property
    def run_id(self) -> str:
        return self.directory.name

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return RunConfig(**_read_json(self.directory / "config.json")["config"])

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Final numbers, times and provenance."""
        return _read_json(self.directory / "summary.json")

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
        """One accuracy in percent.

        Args:
            stage, scope, average: see `fedobp_lib.evaluation`.
            which: `last` evaluated round, or `best` of the evaluated rounds (the metric of
                the published tables).

        Raises:
            UserError: it was not evaluated.
        """
        rows = self.history.query("stage == @stage and scope == @scope and average == @average")
        if rows.empty:
            raise UserError(f"run {self.run_id} has no accuracy {stage}/{scope}/{average}")
        return float(rows["accuracy"].max() if which == "best" else rows["accuracy"].iloc[-1])

    def plot(self):
        """Draw the accuracy over rounds; returns a matplotlib figure."""
        from .figures import plot_history

        config = self.config
        title = f"{config.method} on {config.dataset}, α = {config.alpha}, seed {config.seed}"
        return plot_history(self.history, title)


def run(
    config: RunConfig,
    *,
    device: str = "auto",
    backend: str | Backend = "auto",
    directory: str | Path | None = None,
    progress: bool | None = None,
    on_round: Callable[[Simulation], None] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> RunResult:
    """Return the run of a configuration; compute or continue it only if it is not finished.

    Args:
        config: what to run.
        device: `auto`, `cpu` or `cuda`.
        backend: `auto`, `loop` or `batched`, or one shared with other runs; like the device it
            changes results by rounding only.
        directory: folder of all runs; None: `paths.runs_dir()`.
        progress: show a bar; None: in a terminal or a notebook.
        on_round: called after every round, and once at the start of a continued run.
        checkpoint_seconds: least time between two checkpoints.

    Raises:
        UserError: the configuration cannot be run, or the folder cannot be written.
    """
    config = config.resolved()
    data = load_data(config.dataset)
    home = Path(directory) if directory is not None else paths.runs_dir()
    folder = home / run_id(config, data)
    if is_finished(folder):
        return RunResult(folder)

    where = choose_device(device)
    simulation = Simulation(config, data, where, backend=backend)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _tell(f"run {folder.name} is being computed by another process; waiting for it")
            lock.acquire()
    except OSError as error:
        raise _cannot_write(folder, error) from error
    with lock:
        if not is_finished(folder):
            _compute(simulation, data, folder, progress, on_round, checkpoint_seconds)
    return RunResult(folder)


def run_id(config: RunConfig, data: datasets.ImageData) -> str:
    """Name of a run: 12 hex digits of a hash over all that decides its numbers."""
    known = asdict(config)
    if config.partition is not None:
        known["partition"] = Partition.load(config.partition).fingerprint
        # The file decides these.
        for name in ("clients", "partition_seed", "test_share", "min_samples"):
            known[name] = None
    known["data"] = data.fingerprint
    known["results_version"] = RESULTS_VERSION
    text = json.dumps(known, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


@lru_cache(maxsize=2)
def load_data(name: str) -> datasets.ImageData:
    """The data set, kept in memory for the next run on it."""
    return datasets.load(name)


def is_finished(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def list_runs(directory: str | Path | None = None) -> pd.DataFrame:
    """One row a run folder: id, state, method, dataset, alpha, seed, rounds, accuracies."""
    home = Path(directory) if directory is not None else paths.runs_dir()
    rows = []
    for folder in sorted(home.glob("*/")) if home.is_dir() else []:
        if not (folder / "config.json").is_file():
            continue
        config = _read_json(folder / "config.json")["config"]
        row = {"run_id": folder.name, "state": "partial"}
        row |= {k: config[k] for k in ("method", "dataset", "alpha", "seed", "rounds")}
        if is_finished(folder):
            final = _read_json(folder / "summary.json")["final"]
            row["state"] = "done"
            for stage, numbers in final.items():
                row[stage] = numbers["pooled"]
        rows.append(row)
    columns = ["run_id", "state", "method", "dataset", "alpha", "seed", "rounds"]
    frame = pd.DataFrame(rows, columns=[*columns, "before", "after"])
    return frame.sort_values(["dataset", "alpha", "method", "seed"], ignore_index=True)


def find_run(run: str, directory: str | Path | None = None) -> RunResult:
    """A finished run by its id or an unambiguous beginning of it.

    Raises:
        UserError: none or several match, or the run is unfinished.
    """
    home = Path(directory) if directory is not None else paths.runs_dir()
    found = [f for f in sorted(home.glob(f"{run}*/")) if (f / "config.json").is_file()]
    if len(found) != 1:
        many = "no run" if not found else f"{len(found)} runs"
        raise UserError(f"{many} in {paths.shown(home)} with an id that begins with {run!r}")
    if not is_finished(found[0]):
        raise UserError(f"run {found[0].name} is not finished")
    return RunResult(found[0])


def _compute(
    simulation: Simulation,
    data: datasets.ImageData,
    folder: Path,
    progress: bool | None,
    on_round: Callable[[Simulation], None] | None,
    checkpoint_seconds: float,
) -> None:
    config = simulation.config
    _write_json(
        folder / "config.json",
        {
            "config": asdict(config),
            "data": data.fingerprint,
            "partition": simulation.data.partition.fingerprint,
            "results_version": RESULTS_VERSION,
        },
    )
    checkpoint = folder / "checkpoint.pt"
    _restore(simulation, checkpoint)
    if on_round and simulation.round:
        on_round(simulation)
    bar = progress_bar(config.rounds, progress, done=simulation.round)
    bar.set_description(f"{config.method} on {config.dataset}")
    saved = time.monotonic()
    with bar:
        try:
            while not simulation.done:
                simulation.step()
                bar.update()
                if on_round:
                    on_round(simulation)
                if time.monotonic() - saved >= checkpoint_seconds and not simulation.done:
                    _save_checkpoint(simulation, checkpoint)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            # The interrupt may have come in the middle of a round: the last checkpoint stays.
            bar.close()
            _tell(
                f"interrupted in round {simulation.round} of {config.rounds}; "
                "the same command continues from the last checkpoint"
            )
            raise
    _save_result(simulation, folder)
    checkpoint.unlink(missing_ok=True)


def _save_checkpoint(simulation: Simulation, path: Path) -> None:
    """A checkpoint that cannot be written costs a warning, not the run."""
    try:
        _write(path, lambda file: torch.save(simulation.state(), file))
    except OSError as error:
        _tell(f"warning: no checkpoint written ({error.strerror}); the run goes on")


def _restore(simulation: Simulation, path: Path) -> None:
    if not path.is_file():
        return
    try:
        state = torch.load(path, map_location=simulation.device, weights_only=True)
        simulation.load_state(state)
    except Exception as error:
        _tell(f"warning: the checkpoint cannot be read ({type(error).__name__}); starting over")


def _save_result(simulation: Simulation, folder: Path) -> None:
    try:
        _write_csv(folder / "history.csv", simulation.history_frame())
        _write_csv(folder / "layers.csv", simulation.layers_frame())
        _write_csv(folder / "clients.csv", simulation.clients_frame())
        _write_json(folder / "summary.json", _summary(simulation, folder.name))
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _summary(simulation: Simulation, name: str) -> dict[str, Any]:
    config, seconds = simulation.config, simulation.seconds
    last = [row for row in simulation.layers if row[0] == config.rounds]
    final = {
        stage: {average: scores.summary()[average][0] for average in AVERAGES}
        for stage, scores in simulation.final.items()
    }
    return {
        "run_id": name,
        "method": config.method,
        "dataset": config.dataset,
        "rounds": config.rounds,
        "final": final,
        "personalized_parameters": sum(row[3] for row in last),
        "parameters": simulation.layout.parameters,
        "seconds_total": seconds["rounds"] + seconds["evaluation"],
        "seconds_per_round": seconds["rounds"] / config.rounds,
        "seconds_evaluation": seconds["evaluation"],
        "provenance": provenance(simulation.device),
    }


def provenance(device: torch.device) -> dict[str, Any]:
    """Which code, versions and machine made a result."""
    gpu = device.type == "cuda"
    commit, dirty = _commit()
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "uncommitted_changes": dirty,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
        "device": torch.cuda.get_device_name(device) if gpu else _processor(),
        "threads": torch.get_num_threads(),
    }


@lru_cache
def _commit() -> tuple[str | None, bool | None]:
    here = Path(__file__).parent
    try:
        ask = ["git", "-C", str(here)]
        commit = subprocess.check_output(
            [*ask, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL
        )
        changes = subprocess.check_output(
            [*ask, "status", "--porcelain", "--", str(here)], text=True, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit.strip(), bool(changes.strip())


@lru_cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _write(path: Path, fill: Callable[[Any], None]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    try:
        _write(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise _cannot_write(path.parent, error) from error


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    text = frame.to_csv(index=False, lineterminator="\n")
    _write(path, lambda file: file.write(text.encode()))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{paths.shown(path)} cannot be read; delete the folder to compute the run again"
        ) from error


def _cannot_write(folder: Path, error: OSError) -> UserError:
    reason = error.strerror or type(error).__name__
    return UserError(f"cannot write the run folder {paths.shown(folder)}: {reason}")


def _tell(message: str) -> None:
    print(message, file=sys.stderr)
