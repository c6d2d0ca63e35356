"""Grids of runs: which runs an experiment needs, and computing the missing ones."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from . import paths, runs
from .config import RunConfig
from .errors import UserError, unknown
from .methods import METHODS, find_method
from .progress import progress_bar
from .runs import RunResult

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
        settings={"clients": 10, "participation": 0.3, "rounds": 4, "local_epochs": 1},
    ),
    "quick": Preset(
        datasets=("digits",),
        alphas=(0.1, 0.5),
        seeds=(0, 1),
        purpose="minutes on a laptop; the embedded digits, 20 clients, 20 rounds",
        settings={"rounds": 20},
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
    datasets, alphas, methods, seeds = map(_listed, (datasets, alphas, methods, seeds))
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


def _listed(value: Any) -> list[Any] | None:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (SyntaxError, ValueError):
            raise UserError(f"not a list: {value}") from None
    if value is None or isinstance(value, list | tuple):
        return value
    return [value]


def missing(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """Those of the runs that are not finished yet, each once."""
    home = paths.runs_dir()
    found: dict[str, RunConfig] = {}
    for config in configs:
        resolved = config.resolved()
        name = runs.run_id(resolved, runs.load_data(resolved.dataset))
        if not runs.is_finished(home / name):
            found.setdefault(name, config)
    return list(found.values())


def run_all(
    configs: Sequence[RunConfig], device: str = "auto", progress: bool = True
) -> list[RunResult]:
    """The results of all runs, computing the missing ones under one progress bar.

    Finished runs survive an interruption; the same call continues.

    Args:
        configs: the runs.
        device: `auto`, `cpu` or `cuda`.
        progress: show a bar with the time left while there is work.
    """
    todo = missing(configs)
    bar = progress_bar(sum(config.resolved().rounds for config in todo), progress and bool(todo))
    with bar:
        for number, config in enumerate(todo, 1):
            seed = f"seed {config.seed}"
            bar.set_description(
                f"run {number}/{len(todo)}: {config.method}, {config.dataset}, {seed}"
            )
            done = bar.n
            runs.run(
                config,
                device=device,
                progress=False,
                on_round=lambda s, base=done: bar.update(base + s.round - bar.n),
            )
    return [runs.run(config, device=device, progress=False) for config in configs]
