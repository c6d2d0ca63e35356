"""The experiments of the paper: which runs each needs, which notebook shows it.

An experiment's runs are a function of the same few parameters that the notebooks have, so that
the command line and a notebook always mean the same runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..config import RunConfig
from ..errors import UserError
from ..paper.published import published_resnet18
from .normalizations import normalization_settings
from .partial_personalization import partial_runs
from .presets import PRESETS, grid, listed
from .rules import SMALL, rule_variants
from .sparse_models import sparse_runs

COARSE = [round(0.1 * i, 1) for i in range(10)]
FINE = [round(0.99 + 0.001 * i, 3) for i in range(10)]
FINER = [round(0.999 + 0.0001 * i, 4) for i in range(1, 10)]
FINEST = [round(0.9999 + 0.00001 * i, 5) for i in range(1, 10)]

# Quantiles of the score comparison (Figures 4, 8, 9).
QUANTILES = {
    "smoke": (0.0, 0.9, 0.999, 1.0),
    "quick": (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.99, 0.999, 0.9995, 0.9999, 1.0),
    "paper": (*COARSE, *FINE, *FINER, *FINEST, 1.0),
}

# The methods of Table 7, and what a small machine computes of them.
RESNET18_METHODS = tuple(dict.fromkeys(published_resnet18()["method"]))
FEW_METHODS = ("fedavg", "fedper", "fedobp")

Own = dict[str, dict[str, Any]]  # what an experiment has of its own at each preset

FIRST_FOUR = ("cifar10", "cifar100", "emnist", "svhn")
LAST_FOUR = ("mnist", "fmnist", "medmnistA", "medmnistC")
RESNET18_DATASETS = ("cifar10", "cifar100", "emnist", "svhn", "mnist", "fmnist")
SCORE_DATASETS = ("cifar10", "cifar100", *LAST_FOUR)


def accuracy_runs(preset: str = "quick", **given: Any) -> list[RunConfig]:
    """Tables 1 and 6, Figures 2, 3, 6 and 7: every method; see `presets.grid`."""
    return grid(preset, **given)


def score_runs(preset: str = "quick", **given: Any) -> list[RunConfig]:
    """Figures 4, 8 and 9: FedOBP with each score at each of `QUANTILES`; see `presets.grid`.

    The paper: 200 rounds, six data sets. `methods` is ignored; this is about FedOBP alone.
    """
    own: Own = {"quick": {"seeds": (0,)}, "paper": {"datasets": SCORE_DATASETS, "rounds": 200}}
    return [
        replace(config, settings={"score": score, "quantile": quantile}, eval_after="never")
        for config in _fedobp_runs(preset, given, own)
        for score in ("gradient", "fisher", "obp")
        for quantile in QUANTILES[_size(preset)]
    ]


def layer_runs(preset: str = "quick", **given: Any) -> list[RunConfig]:
    """Figures 5 and 10: FedOBP, in the paper for 450 rounds; see `presets.grid`.

    `methods` is ignored.
    """
    return _fedobp_runs(preset, given, {"paper": {"rounds": 450}})


def normalization_runs(preset: str = "quick", **given: Any) -> list[RunConfig]:
    """Table 8, Figures 11 and 12: FedOBP with each of `ALL_NORMALIZATIONS`; see `presets.grid`.

    `methods` is ignored.
    """
    return [
        replace(config, settings=settings)
        for config in _fedobp_runs(preset, given, {})
        for settings in normalization_settings(config)
    ]


def resnet18_runs(preset: str = "quick", **given: Any) -> list[RunConfig]:
    """Table 7: ResNet-18, pretrained at the preset `paper`; see `presets.grid`.

    FedOBP's quantile is the one whose share of personalized parameters Table 7 prints. The
    smaller presets are one seed of a few methods for few rounds, with one local epoch.
    """
    few = {"methods": FEW_METHODS, "seeds": (0,)}
    own: Own = {
        "smoke": {**few, "rounds": 1},
        "quick": {**few, "rounds": 4},
        "paper": {
            "datasets": RESNET18_DATASETS,
            "methods": (*RESNET18_METHODS, "majority-class"),
            "alphas": (0.1,),
        },
    }
    whole = _size(preset) == "paper"
    small: dict[str, Any] = {} if whole else {"local_epochs": 1}
    printed = published_resnet18().dropna(subset="personalized_percent").set_index("dataset")
    configs = []
    for config in grid(preset, **_filled(preset, given, own)):
        settings = {}
        if config.method == "fedobp" and config.dataset in printed.index:
            share = printed.loc[config.dataset, "personalized_percent"] / 100
            settings = {"quantile": round(1 - share, 6)}
        configs.append(
            replace(config, model="resnet18", pretrained=whole, settings=settings, **small)
        )
    return configs


def cloud_edge_runs(preset: str = "quick", **given: Any) -> list[RunConfig]:
    """Notebook 10: every method, and FedOBP with its scores on the server too; see `presets.grid`.

    At `paper`, only the smaller alpha.
    """
    own: Own = {"quick": {"seeds": (0,)}, "paper": {"alphas": (0.1,)}}
    configs = accuracy_runs(preset, **_filled(preset, given, own))
    on_server = [
        replace(config, settings={**config.settings, "scoring": "server"} | sent)
        for sent in ({}, {"downlink": "sparse"})
        for config in configs
        if config.method == "fedobp"
    ]
    return configs + on_server


def rule_runs(preset: str = "quick", **given: Any) -> list[RunConfig]:
    """Notebook 13: each of `rules.rule_variants`; see `presets.grid`.

    At `paper`, only the smaller alpha. `methods` is ignored. Runs are smaller at the other presets
    (`rules.SMALL`).
    """
    own: Own = {"quick": {"seeds": (0, 1, 2), "rounds": 6}}
    small = {} if _size(preset) == "paper" else SMALL
    return [
        replace(config, method=variant.method, settings=variant.settings, **small)
        for config in _fedobp_runs(preset, given, own)
        for variant in rule_variants(config.dataset)
    ]


def _fedobp_runs(preset: str, given: dict[str, Any], own: Own) -> list[RunConfig]:
    own = {**own, "paper": {"alphas": (0.1,), **own.get("paper", {})}}
    return grid(preset, **{**_filled(preset, given, own), "methods": ["fedobp"]})


def _size(preset: str) -> str:
    """The preset that a preset is as large as: `logged` and `printed` are as large as `paper`."""
    return "paper" if preset in PRESETS and PRESETS[preset].as_logged else preset


def _filled(preset: str, given: dict[str, Any], own: Own) -> dict[str, Any]:
    """The parameters given, and where there are none the experiment's own at this preset."""
    return own.get(_size(preset), {}) | {k: v for k, v in given.items() if v is not None}


@dataclass(frozen=True)
class Experiment:
    """One notebook.

    Attributes:
        notebook: its number.
        tables, figures: those of the paper that it makes, with the parameters that the preset
            `paper` gives them.
        runs: the runs it needs, as a function of preset, datasets, alphas, methods, seeds and
            rounds; None: none beyond what it computes itself in a moment.
    """

    notebook: str
    tables: dict[int, dict[str, Any]] = field(default_factory=dict)
    figures: dict[int, dict[str, Any]] = field(default_factory=dict)
    runs: Callable[..., list[RunConfig]] | None = None


def _part(datasets: Sequence[str], *alphas: float) -> dict[str, Any]:
    return {"datasets": datasets, "alphas": alphas or (0.1,)}


EXPERIMENTS = (
    Experiment("00", figures={1: {}}),
    Experiment("01", tables={2: {}}),
    Experiment(
        "02",
        tables={1: _part(FIRST_FOUR, 0.1, 0.5), 6: _part(LAST_FOUR, 0.1, 0.5)},
        runs=accuracy_runs,
    ),
    Experiment(
        "03",
        figures={
            2: _part(FIRST_FOUR, 0.1),
            3: _part(FIRST_FOUR, 0.5),
            6: _part(LAST_FOUR, 0.1),
            7: _part(LAST_FOUR, 0.5),
        },
        runs=accuracy_runs,
    ),
    Experiment(
        "04",
        figures={
            4: _part(("cifar10", "cifar100")),
            8: _part(("mnist", "fmnist")),
            9: _part(("medmnistA", "medmnistC")),
        },
        runs=score_runs,
    ),
    Experiment("05", figures={5: _part(FIRST_FOUR), 10: _part(LAST_FOUR)}, runs=layer_runs),
    Experiment(
        "06",
        tables={8: _part((*FIRST_FOUR, *LAST_FOUR))},
        figures={11: _part(LAST_FOUR), 12: _part(FIRST_FOUR)},
        runs=normalization_runs,
    ),
    Experiment("07", tables={4: {}, 7: _part(RESNET18_DATASETS)}, runs=resnet18_runs),
    Experiment("08", tables={3: {}, 5: {}}),
    Experiment("09"),
    Experiment("10", runs=cloud_edge_runs),
    Experiment("11", runs=partial_runs),
    Experiment("12", runs=sparse_runs),
    Experiment("13", runs=rule_runs),
    Experiment("14"),
)


def find_experiment(kind: str, number: int) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of a table or figure of the paper, and the data sets and alphas of it.

    Args:
        kind: `table` or `figure`.
        number: as the paper counts.

    Raises:
        UserError: the paper has no such table or figure.
    """
    found: dict[int, tuple[Experiment, dict[str, Any]]] = {}
    for experiment in EXPERIMENTS:
        parts = experiment.tables if kind == "table" else experiment.figures
        found |= {n: (experiment, part) for n, part in parts.items()}
    if number not in found:
        known = ", ".join(map(str, sorted(found)))
        raise UserError(f"the paper has no {kind} {number}; there are {known}")
    return found[number]


def parameters_of(
    parts: Sequence[Mapping[str, Any]], preset: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The parameters of some tables and figures of one experiment.

    A table has data sets and alphas of its own. They are taken at the preset `paper`, and the
    alphas at any preset once other data sets than the digits are named; else the small presets
    have theirs. What is given wins. Of several tables: all data sets with all alphas.

    Args:
        parts: of each table and figure, as `find_experiment` gives it.
        preset: a name of `presets.PRESETS`.
        given: datasets, alphas, methods, seeds, rounds, where they are given.
    """
    datasets = listed(given.get("datasets"))
    real = any(name != "digits" for name in datasets) if datasets else _size(preset) == "paper"
    joined: dict[str, dict[Any, None]] = {}
    for part in parts if real else ():
        for name, values in part.items():
            joined.setdefault(name, {}).update(dict.fromkeys(values))
    return {name: list(values) for name, values in joined.items()} | dict(given)


def experiment_of(notebook: str) -> Experiment:
    """The experiment of a notebook's number, such as `02`."""
    return next(e for e in EXPERIMENTS if e.notebook == notebook)
