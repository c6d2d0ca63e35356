"""Accuracy over rounds (Figures 2, 3, 6 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

import numpy as np
import pandas as pd

from ..config import ResolvedConfig
from ..runs.store import RunResult
from .titles import title_of


def convergence_frame(
    results: Sequence[RunResult],
    stage: str = "before",
    scope: str = "cohort",
    average: str = "pooled",
    name: Callable[[ResolvedConfig], str] = attrgetter("method"),
) -> pd.DataFrame:
    """Accuracy over rounds: dataset, alpha, method, stage, scope, average, round, mean, low, high,
    seeds.

    Runs that differ in nothing but the seed are one line. Where lines are variants of one
    method, `name` tells them apart, and `method` holds the variant's name.

    The paper's curves show the clients of each round before their local training, smoothed by
    a Savitzky-Golay filter (here: cubic, over a tenth of the rounds, each run by itself).
    `low` and `high` are the mean minus and plus a standard deviation over seeds, from 0 to 100.
    """
    rows = []
    for result in results:
        history = result.history.query(
            "stage == @stage and scope == @scope and average == @average"
        )
        config = result.config
        rows.append(
            pd.DataFrame(
                {
                    "dataset": config.dataset,
                    "alpha": config.alpha,
                    "method": name(config),
                    "round": history["round"],
                    "accuracy": smooth(history["accuracy"].to_numpy()),
                }
            )
        )
    tidy = pd.concat(rows)
    frame = (
        tidy.groupby(["dataset", "alpha", "method", "round"], sort=False)["accuracy"]
        .agg(["mean", "std", "count"])
        .reset_index()
    )
    spread = frame["std"].fillna(0)
    frame["low"] = (frame["mean"] - spread).clip(0, 100)
    frame["high"] = (frame["mean"] + spread).clip(0, 100)
    frame = frame.rename(columns={"count": "seeds"}).drop(columns="std")
    for place, (column, value) in enumerate(
        {"stage": stage, "scope": scope, "average": average}.items(), 3
    ):
        frame.insert(place, column, value)
    return frame


def rounds_to_reach(frame: pd.DataFrame, share: float) -> pd.DataFrame:
    """First round in which a method's mean curve reaches a share of FedOBP's best value.

    Args:
        frame: as `convergence_frame` gives it.
        share: of FedOBP's best mean accuracy on the same data set and alpha.

    Returns:
        Columns: dataset, alpha, method, title, target (percent), round (NaN: never); empty where
        FedOBP was not run.
    """
    rows = []
    for (dataset, alpha), panel in frame.groupby(["dataset", "alpha"], sort=False):
        ours = panel.loc[panel["method"] == "fedobp", "mean"]
        for method, line in panel.groupby("method", sort=False):
            reached = line.loc[line["mean"] >= share * ours.max(), "round"]
            first = float(reached.iloc[0]) if len(reached) else np.nan
            rows.append([dataset, alpha, method, title_of(method), share * ours.max(), first])
    columns = ["dataset", "alpha", "method", "title", "target", "round"]
    return pd.DataFrame(rows, columns=columns).dropna(subset="target").astype({"round": "Int64"})


def smooth(values: np.ndarray) -> np.ndarray:
    """Savitzky-Golay filter, cubic, over a tenth of the values but at least nine."""
    window = max(9, len(values) // 10) | 1
    if len(values) < window:
        return values
    from scipy.signal import savgol_filter  # here, as it takes half a second

    return np.clip(savgol_filter(values, window, 3), 0, 100)
