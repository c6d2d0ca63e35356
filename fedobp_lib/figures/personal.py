"""What the personal parameters are: where they lie, how they stay, whose class they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results.personal import CELL, Personal, follow_classes
from .style import HIGHLIGHT, styled, whole_numbers

NOTHING = "Nothing to see in these few rounds."


def plot_personal(seen: Personal) -> Figure:
    """A row a data set and alpha; side by side the tensors, the stability, and the classes.

    Args:
        seen: as `personal.watch_runs` gives it.
    """
    cells = list(seen.tensors.groupby(CELL, sort=False))
    follow = follow_classes(seen.classes)
    with styled():
        figure, axes = plt.subplots(
            len(cells), 3, figsize=(10.5, 3.1 * len(cells)), squeeze=False, layout="constrained",
            width_ratios=[1.25, 1, 1],
        )  # fmt: skip
        for row, ((dataset, alpha), tensors) in zip(axes, cells, strict=True):
            cell = f"dataset == {dataset!r} and alpha == {alpha!r}"
            _tensors(row[0], tensors)
            row[0].set_title(f"{dataset}, α = {alpha}: where they lie", loc="left")
            _stability(row[1], seen.stability.query(cell))
            row[1].set_title("how they stay", loc="left")
            _classes(row[2], follow.query(cell))
            row[2].set_title("whose class they are", loc="left")
        plt.close(figure)
    return figure


def _tensors(axis: Axes, tensors: pd.DataFrame) -> None:
    names = [f"{row.layer} {row.kind}" for row in tensors.itertuples()][::-1]
    places = np.arange(len(names))
    bars = {"personal": ("share", HIGHLIGHT, 0.19), "all parameters": ("of_all", "#999999", -0.19)}
    for label, (column, color, shift) in bars.items():
        shares = tensors[column].to_numpy()[::-1]
        drawn = axis.barh(places + shift, np.nan_to_num(shares), 0.36, color=color, label=label)
        texts = [f"{share:.0f}" if share >= 10 else f"{share:.1g}" for share in shares]
        axis.bar_label(drawn, texts, padding=2, fontsize=7)
    axis.set_yticks(places, names)
    axis.set_xlim(0, 112)
    axis.set_xlabel("share, %")
    axis.grid(axis="y", visible=False)
    axis.legend(fontsize=8, loc="upper right")


def _stability(axis: Axes, stability: pd.DataFrame) -> None:
    axis.set_ylim(-0.02, 1.02)
    axis.set_ylabel("Jaccard index with the client's\nround before")
    if stability.empty:
        axis.text(0.5, 0.5, NOTHING, ha="center", transform=axis.transAxes, fontsize=8)
        return
    axis.plot(stability["round"], stability["jaccard"], ".", color="#999999", ms=4)
    mean = stability.groupby("round")["jaccard"].mean()
    axis.plot(mean.index, mean, "-", color=HIGHLIGHT, lw=1.6, label="mean of a round's clients")
    axis.legend(fontsize=8, loc="lower right")
    whole_numbers(axis, "round")


def _classes(axis: Axes, follow: pd.DataFrame) -> None:
    axis.plot([0, 100], [0, 100], "--", color="black", lw=0.9, label="by chance")
    axis.plot(
        follow["held"], follow["inside"], "o", color=HIGHLIGHT, ms=4, alpha=0.6, label="client"
    )
    axis.set_xlim(-3, 103)
    axis.set_ylim(-3, 103)
    axis.set_xlabel("classes that the client has, % of all")
    axis.set_ylabel("personal classifier parameters\nin their rows, %")
    axis.legend(fontsize=8, loc="lower right")
