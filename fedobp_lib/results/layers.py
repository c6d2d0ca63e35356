"""In which layers the personalized parameters lie (Figures 5, 10; for Figures 11, 12 too)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from ..config import ResolvedConfig
from ..runs.store import RunResult

STABLE_FROM = 300  # after this round the paper calls the distribution stable


def layer_frame(results: Sequence[RunResult]) -> pd.DataFrame:
    """Share of the personalized parameters that lies in each layer, round by round.

    Rounds in which a run personalizes nothing (before clients return) are left out.

    Returns:
        Columns: dataset, alpha, round, layer, parameters (of the layer), mean, low, high (in
        percent; the mean over seeds, and it minus and plus a standard deviation), seeds.
    """
    keys = ["dataset", "alpha", "round", "layer", "parameters"]
    tidy = _tidy(results)
    frame = tidy.groupby(keys, sort=False)["share"].agg(["mean", "std", "count"]).reset_index()
    spread = frame["std"].fillna(0)
    frame["low"], frame["high"] = frame["mean"] - spread, frame["mean"] + spread
    return frame.rename(columns={"count": "seeds"})[[*keys, "mean", "low", "high", "seeds"]]


def layer_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean share of each layer once it is stable.

    Args:
        frame: as `layer_frame` gives it.

    Returns:
        Columns: dataset, alpha, layer, after_round (300, or three quarters of the rounds where
        there are not more), share_of_personalized, share_of_parameters (both in percent).
    """
    rows = []
    for (dataset, alpha), panel in frame.groupby(["dataset", "alpha"], sort=False):
        last = panel["round"].max()
        after = STABLE_FROM if last > STABLE_FROM else 3 * last // 4
        late = panel[panel["round"] > after].groupby("layer", sort=False)
        sizes = late["parameters"].first()
        for layer, share in late["mean"].mean().items():
            rows.append([dataset, alpha, layer, after, share, 100 * sizes[layer] / sizes.sum()])
    columns = ["dataset", "alpha", "layer", "after_round"]
    return pd.DataFrame(rows, columns=[*columns, "share_of_personalized", "share_of_parameters"])


def variant_layers(
    results: Sequence[RunResult], variant: Callable[[ResolvedConfig], str | None]
) -> pd.DataFrame:
    """Share of each layer in the last round, variant by variant.

    The last round is a run's last one in which anything is personalized.

    Args:
        results: finished runs.
        variant: names the variant of a run.

    Returns:
        Columns: dataset, alpha, variant, layer, share (percent, mean over seeds), std (NaN for
        a single seed), personal (mean number of personalized parameters in the layer), seeds.
    """
    tidy = _tidy(results, variant)
    last = tidy[tidy["round"] == tidy.groupby("run")["round"].transform("max")]
    keys = ["dataset", "alpha", "variant", "layer"]
    frame = last.groupby(keys, sort=False).agg(
        share=("share", "mean"),
        std=("share", "std"),
        personal=("personalized", "mean"),
        seeds=("share", "count"),
    )
    return frame.reset_index()


def _tidy(
    results: Sequence[RunResult], variant: Callable[[ResolvedConfig], str | None] | None = None
) -> pd.DataFrame:
    """Every run's layers with their share of the round's personalized parameters, in percent."""
    parts = []
    for result in results:
        config, layers = result.config, result.layers
        total = layers.groupby("round")["personalized"].transform("sum")
        layers = layers.assign(share=100 * layers["personalized"] / total)[total > 0]
        name = variant(config) if variant else ""
        parts.append(
            layers.assign(
                dataset=config.dataset, alpha=config.alpha, variant=name, run=result.run_id
            )
        )
    return pd.concat(parts, ignore_index=True)
