"""Computing a run: once, under a lock, with checkpoints, continued after an interruption."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from .. import paths
from ..config import RESULTS_VERSION, RunConfig
from ..data.images import ImageData
from ..progress import in_notebook, progress_bar
from ..simulation import Simulation, simulate
from ..training.backends import choose_device
from ..training.evaluation import AVERAGES
from ..training.gpu import release
from ..training.trainer import Backend
from . import checkpoints
from .checkpoints import Checkpoint
from .files import cannot_write, write_csv, write_json
from .provenance import device_name, provenance
from .store import RunResult, is_finished, load_data, run_id


def run(
    config: RunConfig,
    *,
    device: str = "auto",
    backend: str | Backend = "auto",
    directory: str | Path | None = None,
    progress: bool | None = None,
    on_round: Callable[[Simulation], None] | None = None,
    checkpoint_seconds: float = checkpoints.SECONDS,
    checkpoint_share: float = checkpoints.SHARE,
) -> RunResult:
    """Return the run of a configuration; compute or continue it only if it is not finished.

    Args:
        config: what to run.
        device: `auto`, `cpu` or `cuda`.
        backend: `auto`, `loop` or `batched`, or one shared with other runs; like the device it
            changes results by rounding only.
        directory: folder of all runs; None: `paths.runs_dir()`.
        progress: show a bar; None: in a terminal or a notebook; False: nor the device's name.
        on_round: called after every round, and once at the start of a continued run.
        checkpoint_seconds, checkpoint_share: see `Checkpoint`.

    Raises:
        UserError: the configuration cannot be run, or the folder cannot be written.
    """
    config = config.resolved(device)
    data = load_data(config.dataset)
    home = Path(directory) if directory is not None else paths.runs_dir()
    folder = home / run_id(config, data)
    if is_finished(folder):
        return RunResult(folder)

    where = choose_device(device)
    simulation = simulate(config, data, where, backend=backend)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _tell(f"run {folder.name} is being computed by another process; waiting for it")
            lock.acquire()
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        if not is_finished(folder):
            checkpoint = Checkpoint(folder / "checkpoint.pt", checkpoint_seconds, checkpoint_share)
            if progress is not False:
                tell_device(where, config.precision)
            _compute(simulation, data, folder, progress, on_round, checkpoint)
    finally:
        lock.release()
    if isinstance(backend, str):  # else others may be using it
        del simulation
        release(where)
    return RunResult(folder)


def tell_device(device: torch.device, precision: str) -> None:
    """A line about what computes; not in a notebook, whose saved outputs hold results only."""
    if not in_notebook():
        threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
        _tell(f"device: {device_name(device)}{threads}, {precision}")


def _compute(
    simulation: Simulation,
    data: ImageData,
    folder: Path,
    progress: bool | None,
    on_round: Callable[[Simulation], None] | None,
    checkpoint: Checkpoint,
) -> None:
    config = simulation.config
    write_json(
        folder / "config.json",
        {
            "config": asdict(config),
            "data": data.fingerprint,
            "partition": simulation.data.partition.fingerprint,
            "results_version": RESULTS_VERSION,
        },
    )
    checkpoint.restore(simulation)
    if on_round and simulation.round:
        on_round(simulation)
    bar = progress_bar(config.rounds, progress, done=simulation.round)
    bar.set_description(f"{config.method} on {config.dataset}")
    with bar:
        try:
            while not simulation.done:
                simulation.step()
                bar.update()
                if on_round:
                    on_round(simulation)
                if not simulation.done:
                    checkpoint.save_if_due(simulation)
        except KeyboardInterrupt:
            # The interrupt may have come in the middle of a round: the last checkpoint stays.
            bar.close()
            _tell(
                f"interrupted in round {simulation.round} of {config.rounds}; "
                "the same command continues from the last checkpoint"
            )
            raise
    _save_result(simulation, folder)
    checkpoint.remove()


def _save_result(simulation: Simulation, folder: Path) -> None:
    try:
        write_csv(folder / "history.csv", simulation.history_frame())
        write_csv(folder / "layers.csv", simulation.layers_frame())
        write_csv(folder / "clients.csv", simulation.clients_frame())
        write_json(folder / "summary.json", _summary(simulation, folder.name))
    except OSError as error:
        raise cannot_write(folder, error) from error


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


def _tell(message: str) -> None:
    print(message, file=sys.stderr)
