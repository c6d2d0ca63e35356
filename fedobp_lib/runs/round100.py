"""The kit's own runs on real images, in parts, the most telling first.

They are the authors' logged runs, at their first logged evaluation: momentum 0.7, 100 rounds, one
seed, here in bf16. Those on CIFAR-100 go to round 400, as only there the logs, the printed 50.37
and Table 8 can be told apart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import RunConfig
from .experiments import QUANTILES, score_runs
from .presets import grid

PRESET = "round100"

# What each part is, as people say it.
WORDS = {
    "cifar100": "on CIFAR-100",
    "mnist-fmnist": "on MNIST and Fashion-MNIST",
    "cifar10": "on CIFAR-10",
    "alpha-0.5": "at α = 0.5",
    "seeds": "with further seeds",
    "scores": "comparing scores",
    "momentum-0": "at momentum 0",
}

# The methods that come first: what they are compared with most.
FIRST = ("fedavg", "fedobp", "fedper", "local-only", "pfedfda", "fedrep", "lg-fedavg")
REPEATED = FIRST[:5]
QUANTILES_TRIED = QUANTILES["quick"]

# FedOBP on CIFAR-100 in three ways: as the authors' main run was, their ablation, and the paper.
# `CIFAR100_WORDS` says so.
LOGGED = {"quantile": 0.99505, "score": "saliency", "normalization": "global", "ema": 0.5}
CIFAR100: tuple[dict[str, Any], ...] = (LOGGED, LOGGED | {"ema": 0.0}, {"quantile": 0.9998})
CIFAR100_WORDS = (
    "as in the authors' main run", "as in their ablation", "with Eq. 19's score and Table 5's q",
)  # fmt: skip


def parts() -> dict[str, list[RunConfig]]:
    """The runs by the name of their part."""
    images = ["mnist", "fmnist"]
    return {
        "cifar100": _cifar100(),
        "mnist-fmnist": _first_first(grid(PRESET, images, [0.1])),
        "cifar10": _first_first(grid(PRESET, ["cifar10"], [0.1])),
        "alpha-0.5": _first_first(grid(PRESET, images, [0.5])),
        "seeds": grid(PRESET, ["mnist"], [0.1], REPEATED, [1, 2]),
        "scores": _scores(),
        "momentum-0": [
            replace(config, momentum=0.0)
            for config in grid(PRESET, ["mnist"], [0.1], ["fedavg", "fedper", "local-only"])
        ],
    }


def _cifar100() -> list[RunConfig]:
    runs = grid(PRESET, ["cifar100"], [0.1], ["fedobp", "fedavg", "fedper"], rounds=400)
    obp, *others = runs
    first, *rest = (replace(obp, settings=settings) for settings in CIFAR100)
    return [first, *others, *rest]


def _scores() -> list[RunConfig]:
    return [
        replace(config, eval_every=25, precision="bf16")
        for config in score_runs("paper", datasets=["mnist"], seeds=[0], rounds=100)
        if config.settings["quantile"] in QUANTILES_TRIED
    ]


def _first_first(runs: list[RunConfig]) -> list[RunConfig]:
    """The runs of the methods `FIRST` before the others, in each data set."""
    order = {name: number for number, name in enumerate(FIRST)}
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    return sorted(
        runs, key=lambda run: (datasets.index(run.dataset), order.get(run.method, len(FIRST)))
    )
