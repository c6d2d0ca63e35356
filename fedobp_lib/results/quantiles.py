"""Accuracy against quantile: which score finds the parameters that matter (Figures 4, 8, 9)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..paper.published import table5_quantile
from ..runs.store import RunResult


def quantile_frame(results: Sequence[RunResult], which: str = "best") -> pd.DataFrame:
    """Accuracy of FedOBP against the quantile, score by score.

    Args:
        results: runs of FedOBP, as `experiments.score_runs` lists them.
        which: `best` of the evaluated rounds or `last`; all clients, before local training,
            pooled, in percent.

    Returns:
        Columns: dataset, alpha, stage, average, which, score, quantile, personal (mean number of
        personalized parameters in the last round), mean, std (NaN for a single seed), seeds.
    """
    rows = []
    for result in results:
        config, settings = result.config, result.config.settings
        quantile = settings["quantile"]
        rows.append(
            {
                "dataset": config.dataset,
                "alpha": config.alpha,
                "score": settings["score"],
                "quantile": table5_quantile(config.dataset, config.alpha)
                if quantile is None
                else quantile,
                "personal": result.summary["personalized_parameters"],
                "accuracy": result.accuracy(which=which),
            }
        )
    keys = ["dataset", "alpha", "score", "quantile"]
    tidy = pd.DataFrame(rows, columns=[*keys, "personal", "accuracy"])
    frame = tidy.groupby(keys, sort=False).agg(
        personal=("personal", "mean"),
        mean=("accuracy", "mean"),
        std=("accuracy", "std"),
        seeds=("accuracy", "count"),
    )  # fmt: skip
    frame = frame.reset_index()
    for place, (column, value) in enumerate(
        {"stage": "before", "average": "pooled", "which": which}.items(), 2
    ):
        frame.insert(place, column, value)
    return frame


def score_peaks(frame: pd.DataFrame) -> pd.DataFrame:
    """The best quantile of each score: a row of `quantile_frame` a data set, alpha and score.

    Of quantiles that are equally good, the largest: the fewest personalized parameters.
    """
    keys = ["dataset", "alpha", "score"]
    best_last = frame.sort_values(["mean", "quantile"])
    peaks = best_last.groupby(keys, sort=False).tail(1)
    return peaks.sort_values(keys, ignore_index=True)
