"""One client's importance scores, and what the threshold makes of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .style import HIGHLIGHT, layer_styles, styled


def plot_quantiles(curve: pd.DataFrame, chosen: float) -> Figure:
    """Accuracy against the number of personalized parameters.

    Args:
        curve: columns quantile, personal (a count), accuracy (percent).
        chosen: the quantile to mark.
    """
    with styled():
        figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
        places = np.arange(len(curve))
        axis.plot(places, curve["accuracy"], "o-", color="#0072B2", lw=1.2, ms=4)
        mark = curve["quantile"] == chosen
        axis.plot(places[mark], curve["accuracy"][mark], "o", color=HIGHLIGHT, ms=9)
        points = zip(curve["quantile"], curve["personal"], strict=True)
        labels = [f"{quantile:g}\n{count:,}" for quantile, count in points]
        axis.set_xticks(places, labels, fontsize=7.5)
        axis.set_xlabel("quantile, and personal parameters of the client")
        axis.set_ylabel("pooled accuracy, %")
        plt.close(figure)
    return figure


def plot_scores(histogram: pd.DataFrame, tau: float) -> Figure:
    """One client's importance scores, layer by layer, with the threshold.

    Args:
        histogram: as `score_histogram` gives it.
        tau: the threshold.
    """
    layers = histogram.groupby("layer", sort=False)
    with styled():
        figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
        styles = layer_styles(list(layers.groups))
        for name, bins in layers:
            size, kept = bins[["layer_parameters", "layer_personal"]].iloc[0]
            axis.stairs(
                bins["parameters"],
                [*bins["low"], bins["high"].iloc[-1]],
                **styles[name],
                label=f"{name}:\n{kept:,} of {size:,} personal",
            )
        # Without a positive score there is nothing that a logarithmic axis could show.
        scale = "log" if histogram["parameters"].any() else "linear"
        axis.set(xscale="log", yscale=scale, ylabel="parameters")
        below, of = (layers[f"layer_{name}"].first().sum() for name in ("below", "parameters"))
        axis.set_xlabel(
            f"importance (local − global)²   ({below:,} of {of:,} are smaller still, or zero)"
        )
        axis.set_ylim(bottom=0.7)
        if tau > 0:
            axis.axvline(tau, color="black", lw=1.6, zorder=6)
            right = axis.transAxes.inverted().transform(axis.transData.transform((tau, 1)))[0] > 0.5
            axis.text(
                tau, 0.97, "threshold τ  " if right else "  threshold τ", fontweight="bold",
                va="top", ha="right" if right else "left", transform=axis.get_xaxis_transform(),
            )  # fmt: skip
        figure.legend(fontsize=8, loc="outside right center")
        plt.close(figure)
    return figure
