"""Many runs: which are missing, and computing them, several as one batch where that pays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch

from .. import paths
from ..config import RunConfig
from ..data.datasets import is_here
from ..models.networks import build_model
from ..models.parameters import ParameterLayout
from ..progress import progress_bar
from ..simulation import Simulation
from ..training.backends import choose_device, make_backend
from ..training.packing import run_packed
from ..training.trainer import Backend
from .execution import run
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

    Finished runs survive an interruption; the same call continues.

    Args:
        configs: the runs.
        device: `auto`, `cpu` or `cuda`.
        progress: show a bar with the time left while there is work.
        pack: how many runs are computed as one batch where they have data set, model and sizes
            in common; None: 4 on a GPU, 1 on a CPU. Results are those of the runs alone, up to
            rounding.
    """
    todo = missing(configs)
    where = choose_device(device)
    if pack is None:
        pack = 4 if where.type == "cuda" else 1
    bar = progress_bar(sum(config.resolved().rounds for config in todo), progress and bool(todo))
    done: dict[int, int] = {}
    with bar:
        for group in packs(todo, pack):
            bar.set_description(f"run {len(done) + 1}/{len(todo)}: {_names(group)}")
            works = []
            for config in group:
                number = len(done)
                done[number] = 0

                def on_round(simulation: Simulation, number: int = number) -> None:
                    done[number] = simulation.round
                    bar.update(sum(done.values()) - bar.n)

                works.append(partial(_run_one, config, device=device, on_round=on_round))
            if len(works) == 1:
                works[0]("auto")
            else:
                run_packed(shared_backend(group[0], where), works)
    return [run(config, device=device, progress=False) for config in configs]


def packs(configs: Sequence[RunConfig], size: int) -> list[list[RunConfig]]:
    """Runs that can be computed as one batch, at most `size` together, in order."""
    groups: list[list[RunConfig]] = []
    for config in configs:
        for group in groups:
            if len(group) < size and _batch_key(config) == _batch_key(group[0]):
                group.append(config)
                break
        else:
            groups.append([config])
    return groups


def shared_backend(config: RunConfig, device: torch.device) -> Backend:
    """A back-end for every run that fits into one batch with `config`."""
    data = load_data(config.dataset)
    model = build_model(config.model, data.shape, data.classes, 0, config.pretrained)
    layout = ParameterLayout.of(model)
    return make_backend("auto", model, layout, device, config.precision)


def _batch_key(config: RunConfig) -> tuple:
    config = config.resolved()
    names = ("dataset", "model", "local_epochs", "batch_size", "precision", "pixels")
    return tuple(getattr(config, name) for name in names)


def _run_one(config: RunConfig, backend: str | Backend, **options: Any) -> RunResult:
    return run(config, backend=backend, progress=False, **options)


def _names(group: Sequence[RunConfig]) -> str:
    methods = ", ".join(dict.fromkeys(config.method for config in group))
    datasets = ", ".join(dict.fromkeys(config.dataset for config in group))
    seeds = ", ".join(dict.fromkeys(str(config.seed) for config in group))
    return f"{methods}, {datasets}, seed {seeds}"
