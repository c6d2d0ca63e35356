"""Grids of runs: which runs an experiment needs, and computing the missing ones."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import torch

from . import datasets, paths, runs
from .config import RunConfig
from .errors import UserError, unknown
from .methods import METHODS, find_method
from .models import build_model
from .packing import together
from .parameters import ParameterLayout
from .progress import progress_bar
from .runs import RunResult
from .simulation import Simulation, choose_device, make_backend
from .training import Backend

PAPER_DATASETS = (
    "cifar10", "cifar100", "emnist", "svhn", "mnist", "fmnist", "medmnistA", "medmnistC",
)  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """The size of all experiments.

    Attributes:
        datasets, alphas, seeds: the grid.
        settings: fields of `RunConfig` that differ from their defaults.
        purpose: one line for people.
    """

    datasets: tuple[str, ...]
    alphas: tuple[float, ...]
    seeds: tuple[int, ...]
    purpose: str
    settings: dict[str, Any] = field(default_factory=dict)


PRESETS = {
    "smoke": Preset(
        datasets=("digits",),
        alphas=(0.1,),
        seeds=(0,),
        purpose="seconds; shows that everything runs, its numbers mean nothing",
        settings={
            "clients": 10,
            "participation": 0.3,
            "rounds": 4,
            "local_epochs": 1,
            "eval_every": 4,
        },
    ),
    "quick": Preset(
        datasets=("digits",),
        alphas=(0.1,),
        seeds=(0, 1),
        purpose="minutes on a laptop; the embedded digits, 20 clients, 12 rounds",
        settings={"rounds": 12},
    ),
    "paper": Preset(
        datasets=PAPER_DATASETS,
        alphas=(0.1, 0.5),
        seeds=(0, 1, 2, 3),
        purpose="the paper's setting; needs the data sets and, in practice, a GPU",
    ),
}


def grid(
    preset: str = "quick",
    datasets: Sequence[str] | None = None,
    alphas: Sequence[float] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    rounds: int | None = None,
) -> list[RunConfig]:
    """The runs of an experiment: every method on every data set, alpha and seed.

    A list may also be a single value or the text of a list, as `papermill -p` passes them.

    Args:
        preset: `smoke`, `quick` or `paper`; what is not given below is the preset's.
        datasets, alphas, seeds: the grid.
        methods: names; None: every registered method.
        rounds: communication rounds.

    Raises:
        UserError: unknown preset or method, or text that is no list.
    """
    datasets, alphas, methods, seeds = map(listed, (datasets, alphas, methods, seeds))
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    base = PRESETS[preset]
    settings = dict(base.settings)
    if rounds is not None:
        settings["rounds"] = rounds
    for method in methods or ():
        find_method(method)
    return [
        RunConfig(method=method, dataset=dataset, alpha=alpha, seed=seed, **settings)
        for dataset, alpha, method, seed in product(
            datasets or base.datasets,
            alphas or base.alphas,
            methods or list(METHODS),
            base.seeds if seeds is None else seeds,
        )
    ]


def listed(value: Any) -> list[Any] | None:
    """What a parameter may be, as a list: None, a list, a range, one value, or a list's text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (SyntaxError, ValueError):
            raise UserError(f"not a list: {value}") from None
    if value is None:
        return None
    return list(value) if isinstance(value, list | tuple | range) else [value]


def run_ids(configs: Iterable[RunConfig]) -> list[str]:
    """The runs' names; needs their data."""
    every = [config.resolved() for config in configs]
    return [runs.run_id(config, runs.load_data(config.dataset)) for config in every]


def missing(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """Those of the runs that are not finished yet, each once."""
    configs, home = list(configs), paths.runs_dir()
    found: dict[str, RunConfig] = {}
    for name, config in zip(run_ids(configs), configs, strict=True):
        if not runs.is_finished(home / name):
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
        if not datasets.is_here(resolved.dataset):
            continue
        name = runs.run_id(resolved, runs.load_data(resolved.dataset))
        if runs.is_finished(home / name):
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
                together(shared_backend(group[0], where), works)
    return [runs.run(config, device=device, progress=False) for config in configs]


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
    data = runs.load_data(config.dataset)
    model = build_model(config.model, data.shape, data.classes, 0, config.pretrained)
    layout = ParameterLayout.of(model)
    return make_backend("auto", model, layout, device, config.precision)


def _batch_key(config: RunConfig) -> tuple:
    config = config.resolved()
    names = ("dataset", "model", "local_epochs", "batch_size", "precision", "pixels")
    return tuple(getattr(config, name) for name in names)


def _run_one(config: RunConfig, backend: str | Backend, **options: Any) -> RunResult:
    return runs.run(config, backend=backend, progress=False, **options)


def _names(group: Sequence[RunConfig]) -> str:
    methods = ", ".join(dict.fromkeys(config.method for config in group))
    datasets = ", ".join(dict.fromkeys(config.dataset for config in group))
    seeds = ", ".join(dict.fromkeys(str(config.seed) for config in group))
    return f"{methods}, {datasets}, seed {seeds}"
