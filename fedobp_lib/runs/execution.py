"""Computing a run: once, by who holds its lease; with checkpoints, so that it can be continued."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import paths
from ..config import RESULTS_VERSION, ResolvedConfig, RunConfig
from ..data.images import ImageData
from ..data.partition import Partition
from ..errors import Preempted
from ..methods import BankPlace
from ..methods.disk_bank import remove_files
from ..progress import in_notebook, progress_bar
from ..simulation import Simulation, simulate
from ..training.backends import choose_device
from ..training.evaluation import AVERAGES
from ..training.gpu import release
from ..training.trainer import Backend
from . import checkpoints, preemption
from .bank_choice import check_bank, choose_bank, told
from .checkpoints import Checkpoint
from .files import cannot_write, remove_leftovers, write_csv, write_json
from .integrity import checksums, sealed, set_aside
from .lease import leased
from .provenance import device_name, peak_memory, provenance
from .store import RunResult, damage, is_finished, load_data, run_id


def run(
    config: RunConfig,
    *,
    device: str = "auto",
    backend: str | Backend = "auto",
    bank: str = "auto",
    directory: str | Path | None = None,
    progress: bool | None = None,
    on_round: Callable[[Simulation], None] | None = None,
    wait: bool = True,
    packed_with: Sequence[str] = (),
    checkpoint_seconds: float | None = None,
    checkpoint_share: float = checkpoints.SHARE,
) -> RunResult:
    """Return the run of a configuration; compute or continue it only if it is not finished.

    Args:
        config: what to run.
        device: `auto`, `cpu` or `cuda`.
        backend: `auto`, `loop` or `batched`, or one shared with other runs; like the device it
            changes results by rounding only.
        bank: where the rows of clients are kept: `device`, `host`, `disk` (in the run's folder
            while it is computed), or `auto`, by their size; it changes no result.
        directory: folder of all runs; None: `paths.runs_dir()`.
        progress: show a bar; None: in a terminal or a notebook; False: nor the device's name.
        on_round: called after every round, and once at the start of a continued run.
        wait: for another process that computes this run; else `Busy` is raised.
        packed_with: ids of the runs that are computed in one batch with it, for its provenance.
        checkpoint_seconds, checkpoint_share: see `Checkpoint`.

    Returns:
        The run. It may have diverged: see `RunResult.diverged`.

    Raises:
        Busy: see `wait`.
        Preempted: the process was asked to end, within `preemption.watching`.
        UserError: the configuration cannot be run, or the folder cannot be written.
    """
    check_bank(bank)
    config = config.resolved(device)
    data = load_data(config.dataset)
    home = paths.runs_dir() if directory is None else paths.expanded(directory, "directory")
    folder = home / run_id(config, data)
    if is_finished(folder):
        return RunResult(folder)

    where = choose_device(device)
    kind = choose_bank(bank, config, where)
    place = BankPlace(kind, folder)
    simulation = simulate(config, data, where, backend=backend, place=place)
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            still_ours = held.enter_context(leased(folder, wait))
            remove_leftovers(folder)
            set_damaged_aside(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
        if not is_finished(folder):
            checkpoint = Checkpoint(folder / "checkpoint.pt", checkpoint_seconds, checkpoint_share)
            if progress is not False:
                tell_device(where, config.precision)
                tell_bank(told(kind, config))
            write_config(simulation.config, data, simulation.data.split, folder)
            checkpoint.restore(simulation)
            take_rounds(simulation, progress, on_round, checkpoint, still_ours)
            made = {
                "backend": simulation.trainer.backend.name,
                "bank": kind,
                "packed_with": list(packed_with),
            }
            save_result(simulation, folder, made)
            checkpoint.remove()
            remove_files(folder)
    if isinstance(backend, str):  # else others may be using it
        del simulation
        release(where)
    return RunResult(folder)


def tell_device(device: torch.device, precision: str) -> None:
    """A line about what computes; not in a notebook, whose saved outputs hold results only."""
    if not in_notebook():
        threads = "" if device.type == "cuda" else f", {torch.get_num_threads()} threads"
        _tell(f"device: {device_name(device)}{threads}, {precision}")


def tell_bank(line: str) -> None:
    """A line about where the rows of clients are, if there is one; not in a notebook."""
    if line and not in_notebook():
        _tell(line)


def set_damaged_aside(folder: Path) -> None:
    """Move a finished run that is not as it was written out of the way, and say so."""
    reason = damage(folder)
    if reason:
        bad = set_aside(folder)
        _tell(f"run {folder.name}: {reason}; it is kept as {bad.name} and computed again")


def write_config(
    config: ResolvedConfig, data: ImageData, partition: Partition, folder: Path
) -> None:
    """Write what is computed, before it is."""
    write_json(
        folder / "config.json",
        {
            "config": asdict(config),
            "data": data.fingerprint,
            "partition": partition.fingerprint,
            "results_version": RESULTS_VERSION,
        },
    )


def take_rounds(
    simulation: Simulation,
    progress: bool | None,
    on_round: Callable[[Simulation], None] | None,
    checkpoint: Checkpoint,
    still_ours: Callable[[], None],
) -> None:
    """Take the rounds that are left, under a progress bar, with checkpoints.

    Raises:
        Preempted: the process was asked to end; the checkpoint is written.
    """
    config = simulation.config
    if on_round and simulation.round:
        on_round(simulation)
    bar = progress_bar(config.rounds, progress, done=simulation.round)
    bar.set_description(f"{config.method} on {config.dataset}")
    with bar:
        try:
            while not simulation.done:
                simulation.step()
                still_ours()
                bar.update()
                if on_round:
                    on_round(simulation)
                if simulation.done:
                    break
                if preemption.asked():
                    checkpoint.save(simulation)
                    raise Preempted
                if checkpoint.save_if_due(simulation):
                    simulation.commit_state()
        except KeyboardInterrupt:
            # The interrupt may have come in the middle of a round: the last checkpoint stays.
            bar.close()
            _tell(
                f"interrupted in round {simulation.round} of {config.rounds}; "
                "the same command continues from the last checkpoint"
            )
            raise


def save_result(simulation: Simulation, folder: Path, made: dict[str, Any], **more: Any) -> None:
    """Write what makes a run finished, the summary last.

    Args:
        simulation: after its last round.
        folder: of the run.
        made: goes into the provenance.
        more: goes into the summary.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        write_csv(folder / "history.csv", simulation.history_frame())
        write_csv(folder / "layers.csv", simulation.layers_frame())
        write_csv(folder / "clients.csv", simulation.clients_frame())
        summary = _summary(simulation, folder.name, made) | more
        write_json(folder / "summary.json", sealed(summary | {"files": checksums(folder)}))
    except OSError as error:
        raise cannot_write(folder, error) from error


def _summary(simulation: Simulation, name: str, made: dict[str, Any]) -> dict[str, Any]:
    config, seconds = simulation.config, simulation.seconds
    last = [row for row in simulation.layers if row[0] == simulation.round]
    final = {
        stage: {average: scores.summary()[average][0] for average in AVERAGES}
        for stage, scores in simulation.final.items()
    }
    return {
        "run_id": name,
        "method": config.method,
        "dataset": config.dataset,
        "rounds": config.rounds,
        "diverged": simulation.diverged,
        "final": final,
        "personalized_parameters": sum(row[3] for row in last),
        "parameters": simulation.layout.parameters,
        "seconds_total": sum(seconds.values()),
        "seconds_per_round": seconds["rounds"] / max(simulation.round, 1),
        "seconds_evaluation": seconds["tests"] + seconds["tuning"],
        "seconds_tuning": seconds["tuning"],
        "provenance": provenance(simulation.device)
        | {
            "precision": config.precision,
            **made,
            "peak_memory_gib": peak_memory(simulation.device) / 2**30,
        },
    }


def _tell(message: str) -> None:
    print(message, file=sys.stderr)
