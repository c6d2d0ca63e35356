"""Many runs: which are missing, and computing them, several as one batch where that pays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch

from .. import paths
from ..config import RunConfig
from ..data.datasets import is_here
from ..progress import progress_bar
from ..simulation import Simulation
from ..training.backends import choose_device
from ..training.gpu import release
from ..training.packing import run_packed
from ..training.trainer import Backend
from . import checkpoints
from .execution import run, tell_device
from .packs import batch_of, fitting, in_parts, packs, shared_backend
from .store import RunResult, is_finished, load_data, run_id


def run_ids(configs: Iterable[RunConfig]) -> list[str]:
    """The runs' names; needs their data."""
    every = [config.resolved() for config in configs]
    return [run_id(config, load_data(config.dataset)) for config in every]


def missing(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """Those of the runs that are not finished yet, each once."""
    configs, home = list(configs), paths.runs_dir()
    found: dict[str, RunConfig] = {}
    for name, config in zip(run_ids(configs), configs, strict=True):
        if not is_finished(home / name):
            found.setdefault(name, config)
    return list(found.values())


def finished(configs: Iterable[RunConfig]) -> list[RunResult]:
    """Those of the runs that are finished, each once, in order; computes and downloads nothing.

    A run belongs to its data: where a data set's file is not here, none of its runs is found.
    """
    home = paths.runs_dir()
    found: dict[str, RunResult] = {}
    for config in configs:
        resolved = config.resolved()
        if not is_here(resolved.dataset):
            continue
        name = run_id(resolved, load_data(resolved.dataset))
        if is_finished(home / name):
            found.setdefault(name, RunResult(home / name))
    return list(found.values())


def run_all(
    configs: Sequence[RunConfig],
    device: str = "auto",
    progress: bool = True,
    pack: int | None = None,
) -> list[RunResult]:
    """The results of all runs, computing the missing ones under one progress bar.

    Finished runs survive an interruption; the same call continues. Where a GPU's memory does not
    hold a pack, it is halved, and so are those like it that come later.

    Args:
        configs: the runs.
        device: `auto`, `cpu` or `cuda`.
        progress: say which device computes, and show a bar with the time left, while there is
            work.
        pack: how many runs are computed as one batch where they have data set, model and sizes
            in common; None: up to 16 by the free memory of a GPU, 1 on a CPU. Results are those
            of the runs alone, up to rounding.

    Raises:
        torch.OutOfMemoryError: a single run does not fit.
    """
    configs = [config.resolved(device) for config in configs]
    todo = missing(configs)
    where = choose_device(device)
    progress = progress and bool(todo)
    if progress:
        tell_device(where, ", ".join(dict.fromkeys(config.precision for config in todo)))
    size = pack or (fitting(where) if where.type == "cuda" else 1)
    waiting = packs(todo, size)
    numbers = {id(config): number for number, config in enumerate(todo)}
    done = [0] * len(todo)
    with progress_bar(sum(config.resolved().rounds for config in todo), progress) as bar:

        def on_round(simulation: Simulation, number: int) -> None:
            done[number] = simulation.round
            bar.update(sum(done) - bar.n)

        while waiting:
            group = waiting.pop(0)
            begun = len(todo) - sum(map(len, waiting)) - len(group)
            bar.set_description(f"run {begun + 1}/{len(todo)}: {_names(group)}")
            works = [
                partial(
                    _run_one,
                    config,
                    device=device,
                    on_round=partial(on_round, number=numbers[id(config)]),
                    checkpoint_share=checkpoints.SHARE / len(group),  # the others wait
                )
                for config in group
            ]
            try:
                _run_together(works, group[0], where)
                continue
            except torch.OutOfMemoryError:
                if len(group) == 1:
                    raise
            # Out of the clause above, as the error holds what the pack had in memory.
            half = -(-len(group) // 2)
            waiting = _halved([group, *waiting], batch_of(group[0]), half)
            release(where)
            _say(f"{len(group)} runs at once do not fit into memory; now at most {half}")
    return [run(config, device=device, progress=False) for config in configs]


def _run_together(
    works: Sequence[Callable[[str | Backend], RunResult]], first: RunConfig, device: torch.device
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


def _run_one(config: RunConfig, backend: str | Backend, **options: Any) -> RunResult:
    return run(config, backend=backend, progress=False, **options)


def _names(group: Sequence[RunConfig]) -> str:
    methods = ", ".join(dict.fromkeys(config.method for config in group))
    datasets = ", ".join(dict.fromkeys(config.dataset for config in group))
    seeds = ", ".join(dict.fromkeys(str(config.seed) for config in group))
    return f"{methods}, {datasets}, seed {seeds}"


def _say(message: str) -> None:
    print(message, file=sys.stderr)
