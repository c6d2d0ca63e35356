"""Accuracies of all methods side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..methods import METHODS
from .style import HIGHLIGHT, panel_grid, styled

AVERAGES = {"pooled": "pooled", "client_mean": "client mean"}
WHICH = {"best": "best of the evaluated rounds", "last": "last round"}
PUBLISHED: dict[str, Any] = {"ls": "none", "marker": "x", "ms": 6, "color": "#0072B2"}


def plot_accuracy(table: pd.DataFrame, published: bool = True) -> Figure:
    """Dots with standard deviations, one panel a data set and alpha, best method on top.

    Args:
        table: as `tables.accuracy_table` gives it.
        published: mark the published value with a cross where there is one.
    """
    rows = table.groupby(["dataset", "alpha"]).size().max()
    crosses = published and table["published_mean"].notna().any()
    first = table[table["method"] != "fedavg-fine-tuned"].iloc[0]
    what = (
        f"accuracy of all clients, %: {AVERAGES[first['average']]}, {first['stage']} training,\n"
        f"{WHICH[first['which']]}; ± 1 std over seeds"
    )
    with styled():
        figure, panels = panel_grid(table, 2, 4.6, 0.27 * rows + 1.05)
        for axis, panel in panels:
            for y, row in enumerate(panel.itertuples()):
                ours = row.method == "fedobp"
                color = HIGHLIGHT if ours else "#444444"
                axis.errorbar(
                    row.mean, y, xerr=0 if np.isnan(row.std) else row.std, fmt="o", ms=5,
                    color=color, elinewidth=1.2,
                )  # fmt: skip
                if crosses:
                    axis.plot(row.published_mean, y, **PUBLISHED)
            axis.set_yticks(range(len(panel)), panel["title"])
            for label in axis.get_yticklabels():
                if label.get_text() == METHODS["fedobp"].title:
                    label.set(color=HIGHLIGHT, fontweight="bold")
            axis.set_xlabel(what)
        if crosses:
            ours = Line2D([], [], ls="none", marker="o", ms=5, color="#444444", label="ours")
            paper = Line2D([], [], label="published", **PUBLISHED)
            figure.legend(handles=[ours, paper], loc="outside lower center", ncols=2, fontsize=8)
        plt.close(figure)
    return figure
