"""The sizes of all experiments, and grids of runs."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from ..config import RunConfig
from ..errors import UserError, unknown
from ..methods import METHODS, find_method
from ..typed import as_declared
from .as_logged import logged_settings

PAPER_DATASETS = (
    "cifar10", "cifar100", "emnist", "svhn", "mnist", "fmnist", "medmnistA", "medmnistC",
)  # fmt: skip

# What a notebook can show: the kit's runs, or what the paper's authors logged.
SOURCES = ("ours", "logged")

# What the lists of a grid hold.
KINDS: dict[str, type] = {"datasets": str, "alphas": float, "methods": str, "seeds": int}


@dataclass(frozen=True)
class Preset:
    """The size of all experiments.

    Attributes:
        datasets, alphas, seeds: the grid.
        purpose: one line for people.
        settings: fields of `RunConfig` that differ from their defaults.
        as_logged: methods have the settings of the authors' logged runs.
        momenta: of each seed in turn, repeated; empty: the protocol's.
    """

    datasets: tuple[str, ...]
    alphas: tuple[float, ...]
    seeds: tuple[int, ...]
    purpose: str
    settings: dict[str, Any] = field(default_factory=dict)
    as_logged: bool = False
    momenta: tuple[float, ...] = ()

    def of(self, method: str, dataset: str, alpha: float, seed: int) -> dict[str, Any]:
        """Fields of `RunConfig` of one run that differ from their defaults."""
        fields: dict[str, Any] = dict(self.settings)
        if self.as_logged:
            fields["settings"] = logged_settings(method, dataset, alpha)
        if self.momenta:
            fields["momentum"] = self.momenta[seed % len(self.momenta)]
        return fields


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
    "logged": Preset(
        datasets=PAPER_DATASETS,
        alphas=(0.1, 0.5),
        seeds=(0,),
        purpose="as the authors ran it at momentum 0.7; each run has a logged counterpart",
        as_logged=True,
    ),
    "round100": Preset(
        datasets=("mnist", "fmnist", "cifar100", "cifar10"),
        alphas=(0.1, 0.5),
        seeds=(0,),
        purpose="as logged, but 100 rounds in bf16, where the first logged evaluation is",
        settings={"rounds": 100, "eval_every": 25, "precision": "bf16"},
        as_logged=True,
    ),
    "printed": Preset(
        datasets=PAPER_DATASETS,
        alphas=(0.1, 0.5),
        seeds=(0, 1, 2, 3),
        purpose="what most printed cells are: three runs at momentum 0, one at 0.7",
        as_logged=True,
        momenta=(0.0, 0.0, 0.0, 0.7),
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

    A list may also be a single value or the text of a list, as `papermill -p` passes them, or an
    array; what it names twice counts once.

    Args:
        preset: a name of `PRESETS`; what is not given below is the preset's.
        datasets, alphas, seeds: the grid.
        methods: names; None: every registered method.
        rounds: communication rounds.

    Raises:
        UserError: unknown preset or method, text that is no list, or a value of the wrong type.
    """
    preset = as_declared("preset", preset, str)
    given_lists = {"datasets": datasets, "alphas": alphas, "methods": methods, "seeds": seeds}
    datasets, alphas, methods, seeds = (listed(value, n) for n, value in given_lists.items())
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    base = PRESETS[preset]
    given = {} if rounds is None else {"rounds": rounds}
    for method in methods or ():
        find_method(method)
    return [
        RunConfig(
            method=method,
            dataset=dataset,
            alpha=alpha,
            seed=seed,
            **(base.of(method, dataset, alpha, seed) | given),
        )
        for dataset, alpha, method, seed in product(
            datasets or base.datasets,
            alphas or base.alphas,
            methods or METHODS,
            seeds or base.seeds,
        )
    ]


def listed(value: Any, name: str = "datasets") -> list[Any] | None:
    """What a parameter of a grid may be, as a list of its type in which nothing is there twice.

    Args:
        value: None, a list or an array, a range, one value, or a list's text.
        name: a key of `KINDS`.

    Raises:
        UserError: text that is no list, an empty list, or a value of the wrong type.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = ast.literal_eval(value.strip())
        except (SyntaxError, ValueError):
            raise UserError(f"{name}: not a list: {value}") from None
    if value is None:
        return None
    one = isinstance(value, str | bytes) or not isinstance(value, Iterable)
    if getattr(value, "ndim", None) == 0:  # an array of one value, which has no order to go through
        one = True
    values = [value] if one else list(value)
    if not values:
        raise UserError(f"{name}: the list is empty")
    return list(dict.fromkeys(as_declared(f"each of {name}", v, KINDS[name]) for v in values))
