"""Claims about Figures 5 and 10: in which layers the personalized parameters are."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...runs.store import RunResult
from .finding import UNKNOWN, Finding


def layer_shares(results: Sequence[RunResult]) -> pd.DataFrame:
    """Share of FedOBP's personalized parameters that lies in each layer.

    Returns:
        dataset, alpha, round, layer, share (0 to 1, mean over seeds). Rounds in which nothing is
        personal yet are left out.
    """
    parts = []
    for result in results:
        if result.config.method != "fedobp":
            continue
        layers = result.layers
        total = layers.groupby("round")["personalized"].transform("sum")
        layers = layers.assign(
            dataset=result.config.dataset,
            alpha=result.config.alpha,
            share=layers["personalized"] / total.where(total > 0),
        )
        parts.append(layers.dropna(subset="share"))
    keys = ["dataset", "alpha", "round", "layer"]
    if not parts:
        return pd.DataFrame(columns=[*keys, "share"])
    return pd.concat(parts).groupby(keys, sort=False)["share"].mean().reset_index()


def first_layer_to_last(shares: pd.DataFrame) -> Finding:
    """conv1 loses and the classifier gains, from the first to the last quarter of the rounds."""
    parts = []
    for (dataset, alpha), panel in shares.groupby(["dataset", "alpha"], sort=False):
        table = panel.pivot(index="round", columns="layer", values="share")
        if not {"conv1", "classifier"} <= set(table) or len(table) < 2:
            continue
        quarter = -(-len(table) // 4)
        early, late = table.iloc[:quarter].mean(), table.iloc[-quarter:].mean()
        told = ", ".join(
            f"{layer} {early[layer]:.3f} to {late[layer]:.3f}" for layer in ("conv1", "classifier")
        )
        right = late["conv1"] < early["conv1"] and late["classifier"] > early["classifier"]
        parts.append(Finding(f"{dataset} {alpha:g}: {told}", bool(right)))
    return Finding.all_of(parts)


def shares_between(
    shares: pd.DataFrame,
    dataset: str,
    rounds: tuple[int, int],
    classifier: tuple[float, float],
    conv1: tuple[float, float],
) -> Finding:
    """The mean shares over some rounds lie in ranges, at two decimals."""
    shares = shares.query("dataset == @dataset and alpha == 0.1")
    if shares.empty:
        return UNKNOWN
    first, last = rounds
    inside = shares[shares["round"].between(first, last)]
    if inside.empty:
        return Finding(f"no run reaches round {first}")
    mean = inside.groupby("layer")["share"].mean()
    parts = []
    for layer, (low, high) in (("classifier", classifier), ("conv1", conv1)):
        share = round(float(mean[layer]), 2)
        parts.append(Finding(f"{layer} {share:.2f}", low <= share <= high))
    return Finding.all_of(parts)
