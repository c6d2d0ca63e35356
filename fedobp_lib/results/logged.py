"""The authors' logged runs in the form of our own, so that every table, curve and claim takes them.

A `LoggedRun` has the parts of a `RunResult` that were logged, and nothing else: pooled accuracies,
the personal parameters of each layer where they were recorded, no losses, no single clients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ..config import ResolvedConfig, RunConfig
from ..decoupling import personal_count
from ..errors import unknown
from ..paper import logged
from ..runs.normalizations import NORMALIZATIONS
from ..runs.presets import SOURCES, listed
from ..runs.store import RunResult
from ..simulation import HISTORY, LAYERS
from .counts import layout_of

SEED = 42  # of every logged run
TESTED = 100  # clients in a test of all; the logs of layers count them like those of ten rounds
FOLDER = "authors"  # where figures and tables of the logs go, beside those of the presets


def folder_of(source: str, preset: str) -> str:
    """The folder of a notebook's figures: the preset's, or that of the authors' logs.

    Raises:
        UserError: unknown source.
    """
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    return FOLDER if source == "logged" else preset


class LoggedRun(RunResult):
    """A run of the paper's authors.

    Args:
        name: what it is, in a few words.
        config: its settings, as the kit calls them.
        history, layers: rows as a run of ours has them; `layers` may be empty.
    """

    def __init__(
        self,
        name: str,
        config: ResolvedConfig,
        history: pd.DataFrame,
        layers: pd.DataFrame | None = None,
    ) -> None:
        super().__init__(Path("logged") / name)
        parts = {"config": config, "history": history, "layers": layers}
        vars(self).update({k: v for k, v in parts.items() if v is not None})

    @cached_property
    def layers(self) -> pd.DataFrame:
        return pd.DataFrame(columns=LAYERS)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Number of parameters, and of personal ones by the quantile."""
        config = self.config
        size = layout_of(config.dataset).parameters
        kept = 0
        if config.method == "fedobp" and not config.settings["classifier_only"]:
            kept = personal_count(size, config.settings["quantile"])
        return {"parameters": size, "personalized_parameters": float(kept)}


def logged_results(
    experiment: str,
    datasets: Sequence[str] | None = None,
    alphas: Sequence[float] | None = None,
    methods: Sequence[str] | None = None,
) -> list[LoggedRun]:
    """The logged runs at momentum 0.7 behind some of the paper's tables and figures.

    Where one configuration was logged several times, the latest: wherever a printed cell can be
    traced to one of them, it is the latest.

    Args:
        experiment: `accuracy` (Tables 1 and 6, Figures 2, 3, 6, 7), `scores` (Figures 4, 8, 9),
            `normalization` (Table 8, Figures 11, 12) or `layers` (Figures 5, 10).
        datasets, alphas, methods: which of them; None: all.
    """
    runs = EXPERIMENTS[experiment]()
    given = {"datasets": datasets, "alphas": alphas, "methods": methods}
    wanted = [listed(values, name) for name, values in given.items()]
    return [
        run
        for run in runs
        if all(
            values is None or value in values
            for values, value in zip(
                wanted, (run.config.dataset, run.config.alpha, run.config.method), strict=True
            )
        )
    ]


def _accuracy() -> list[LoggedRun]:
    tested = logged.logged_accuracy().query("momentum == 0.7")
    curves = dict(list(logged.logged_curves().groupby(["dataset", "alpha", "method", "run"])))
    settings = logged.logged_runs().query("experiment == 'accuracy'")
    settings = settings.set_index(["dataset", "alpha", "method", "run"])
    found = {}
    for key, rows in tested.groupby(["dataset", "alpha", "method", "run"], sort=False):
        dataset, alpha, method, _ = key
        history = _history(rows, "all")
        if key in curves:
            history = pd.concat([_history(curves[key], "cohort"), history], ignore_index=True)
        config = _config(dataset, alpha, method, **_fedobp(settings.loc[key]))
        # Later runs of a configuration replace earlier ones.
        found[dataset, alpha, method] = LoggedRun(f"{dataset}-{alpha:g}-{method}", config, history)
    return list(found.values())


def _scores() -> list[LoggedRun]:
    runs = []
    keys = ["dataset", "alpha", "score", "quantile"]
    for key, rows in logged.logged_scores().groupby(keys, sort=False):
        dataset, alpha, score, quantile = key
        # Of FedOBP's curve on one data set two coefficients were logged for some quantiles.
        rows = rows[rows["ema"].isna() | (rows["ema"] == rows["ema"].max())]
        config = _config(
            dataset, alpha, "fedobp", rounds=200, score=score, quantile=quantile,
        )  # fmt: skip
        name = f"{dataset}-{alpha:g}-{score}-{quantile:g}"
        rows = rows[rows["round"] <= 200].assign(stage="before")
        runs.append(LoggedRun(name, config, _history(rows, "all")))
    return runs


def _normalization() -> list[LoggedRun]:
    runs = []
    keys = ["dataset", "alpha", "normalization", "quantile"]
    for key, rows in logged.logged_normalizations().groupby(keys, sort=False):
        dataset, alpha, normalization, quantile = key
        settings = {**NORMALIZATIONS[normalization], "quantile": quantile}
        config = _config(dataset, alpha, "fedobp", **settings)
        name = f"{dataset}-{alpha:g}-{normalization}"
        runs.append(LoggedRun(name, config, _history(rows.assign(stage="before"), "all")))
    return runs


def _layers() -> list[LoggedRun]:
    runs = []
    for dataset, rows in logged.logged_layers().groupby("dataset", sort=False):
        layers = rows.groupby(["round", "layer"], sort=False)[["size", "personal"]].sum()
        layers = layers.reset_index().rename(
            columns={"size": "parameters", "personal": "personalized"}
        )
        config = _config(str(dataset), 0.1, "fedobp")
        empty = pd.DataFrame(columns=HISTORY)
        runs.append(LoggedRun(f"{dataset}-layers", config, empty, layers[LAYERS]))
    return runs


EXPERIMENTS: dict[str, Callable[[], list[LoggedRun]]] = {
    "accuracy": _accuracy,
    "scores": _scores,
    "normalization": _normalization,
    "layers": _layers,
}


def _config(
    dataset: str, alpha: float, method: str, rounds: int = 400, **settings: Any
) -> ResolvedConfig:
    return RunConfig(
        method=method, dataset=dataset, alpha=alpha, rounds=rounds, seed=SEED, settings=settings
    ).resolved()


def _fedobp(row: pd.Series) -> dict[str, Any]:
    """FedOBP's settings of a logged run; nothing for another method."""
    if pd.isna(row["normalization"]):
        return {}
    return {
        "quantile": float(row["quantile"]),
        "normalization": str(row["normalization"]),
        "ema": float(row["ema"]),
    }


def _history(rows: pd.DataFrame, scope: str) -> pd.DataFrame:
    rows = rows.assign(scope=scope, average="pooled", loss=float("nan"))
    return rows[HISTORY].sort_values("round", kind="stable", ignore_index=True)
