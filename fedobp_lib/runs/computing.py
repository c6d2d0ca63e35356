"""Computing packs of runs in this process. A run that fails does not stop the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import torch

from .. import paths
from ..config import RunConfig
from ..errors import one_line
from ..simulation import Simulation
from ..training.backends import choose_device
from ..training.gpu import release
from ..training.packing import run_packed
from ..training.trainer import Backend
from . import checkpoints
from .bank_choice import choose_bank, told
from .execution import run
from .files import write
from .lease import Busy
from .packs import batch_of, in_parts, shared_backend
from .store import load_data, run_id

LOG = "error.log"


@dataclass(frozen=True)
class Event:
    """What happened to a run.

    Attributes:
        run: its id; empty for what concerns no single one.
        kind: `round`, `finished`, `failed`, `busy` (another process computes it) or `note`.
        round: rounds that are done.
        accuracy: of the round's clients before training, pooled, percent.
        text: what went wrong, or what is to be said.
    """

    run: str
    kind: str
    round: int = 0
    accuracy: float | None = None
    text: str = ""


Report = Callable[[Event], None]
Group = Sequence[RunConfig]


class Engine(Protocol):
    """Who computes the packs of a sweep; whoever it is, the runs are the same."""

    @property
    def size(self) -> int | Callable[[RunConfig], int]:
        """Runs in a pack at most; see `packs.packs`."""

    def tell(self, precisions: str) -> None:
        """Print a line about what computes."""

    def compute(self, groups: Sequence[Group], report: Report) -> None:
        """Compute packs of runs; `report` is told of every round and every end.

        Raises:
            Preempted: this process was asked to end, and checkpoints are written.
        """


def compute(
    groups: Iterable[Group],
    device: str,
    report: Report,
    bank: str = "auto",
    processes: int = 1,
) -> None:
    """Compute packs of runs, one pack after another.

    Where a GPU's memory does not hold a pack, it is halved, and so are those like it that come
    later.

    Args:
        groups: the packs.
        device: `auto`, `cpu` or `cuda`.
        report: told of every round and every end, from the threads of the runs.
        bank: where the rows of clients are kept, see `bank_choice.choose_bank`.
        processes: how many compute on this machine.
    """
    where = choose_device(device)
    waiting = [list(group) for group in groups]
    lines: set[str] = set()
    while waiting:
        group = waiting.pop(0)
        place = choose_bank(bank, group[0], where, len(group), processes)
        line = told(place, group[0].resolved(device))
        if line and line not in lines:
            lines.add(line)
            report(Event("", "note", text=line))
        names = [name_of(config) for config in group]
        works = [
            partial(
                _one,
                config,
                name=name,
                device=device,
                bank=place,
                report=report,
                packed_with=[other for other in names if other != name],
            )
            for config, name in zip(group, names, strict=True)
        ]
        try:
            _together(works, group[0], where)
            continue
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
        # Out of the clause above, as the error holds what the pack had in memory.
        release(where)
        if len(group) == 1:
            report(Event(names[0], "failed", text=f"it does not fit into memory: {reason}"))
            continue
        half = -(-len(group) // 2)
        waiting = _halved([group, *waiting], batch_of(group[0]), half)
        text = f"{len(group)} runs at once do not fit into memory; now at most {half}"
        report(Event("", "note", text=text))


def _together(
    works: Sequence[Callable[[str | Backend], None]], first: RunConfig, device: torch.device
) -> None:
    if len(works) == 1:
        works[0]("auto")
    else:
        run_packed(shared_backend(first, device), works)
        release(device)


def _halved(groups: list[list[RunConfig]], kind: tuple, most: int) -> list[list[RunConfig]]:
    """The groups; those of this kind in parts of at most so many runs."""
    parts: list[list[RunConfig]] = []
    for group in groups:
        parts += in_parts(group, most) if batch_of(group[0]) == kind else [group]
    return parts


def _one(
    config: RunConfig,
    backend: str | Backend,
    *,
    name: str,
    device: str,
    bank: str,
    report: Report,
    packed_with: Sequence[str],
) -> None:
    def on_round(simulation: Simulation) -> None:
        report(Event(name, "round", simulation.round, _accuracy(simulation)))

    log = paths.runs_dir() / name / LOG
    try:
        result = run(
            config,
            device=device,
            backend=backend,
            bank=bank,
            progress=False,
            on_round=on_round,
            wait=False,
            packed_with=packed_with,
            checkpoint_share=checkpoints.SHARE / (1 + len(packed_with)),  # the others wait
        )
    except Busy as busy:
        report(Event(name, "busy", text=str(busy)))
    except (torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        text = one_line(error)
        with suppress(OSError):  # there is no folder, or no room for it
            write(log, partial(_fill, text=traceback.format_exc()))
            text += pointer(log)
        report(Event(name, "failed", text=text))
    else:
        log.unlink(missing_ok=True)
        report(Event(name, "finished", result.config.rounds))


def _fill(file: BinaryIO, text: str) -> None:
    file.write(text.encode())


def pointer(log: Path) -> str:
    """Where the reason of a failure says that its log is."""
    return f"; see {paths.shown(log)}"


def _accuracy(simulation: Simulation) -> float | None:
    of_cohort = [
        row for row in simulation.history[-12:] if row[1:4] == ["before", "cohort", "pooled"]
    ]
    return of_cohort[-1][4] if of_cohort else None


def name_of(config: RunConfig) -> str:
    resolved = config.resolved()
    return run_id(resolved, load_data(resolved.dataset))
