"""Accuracies of all methods side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..methods import METHODS
from ..results.tables import FINE_TUNED
from .style import HIGHLIGHT, panel_grid, styled

AVERAGES = {"pooled": "pooled", "client_mean": "client mean"}
WHICH = {"best": "best of the evaluated rounds", "last": "last round"}
# Of three sources: ours is a dot, what the paper prints a cross, what its authors logged a square.
PRINTED: dict[str, Any] = {"ls": "none", "marker": "x", "ms": 6, "color": "#0072B2"}
LOGGED: dict[str, Any] = {
    "ls": "none", "marker": "s", "ms": 5, "mfc": "none", "color": "#009E73",
}  # fmt: skip


def plot_accuracy(table: pd.DataFrame, source: str = "ours") -> Figure:
    """Dots with standard deviations, one panel a data set and alpha, best method on top.

    Args:
        table: as `tables.accuracy_table` gives it.
        source: what the dots are, `ours` or `logged`; printed and logged numbers are marked beside.
    """
    rows = table.groupby(["dataset", "alpha"]).size().max()
    marks = {"printed by the paper": ("published_mean", PRINTED)}
    if source == "ours":
        marks["logged by its authors"] = ("logged_mean", LOGGED)
    marks = {name: mark for name, mark in marks.items() if table[mark[0]].notna().any()}
    name = {"ours": "ours", "logged": "logged by the paper's authors"}[source]
    first = table[table["method"] != "fedavg-fine-tuned"].iloc[0]
    what = (
        f"accuracy of all clients, %: {AVERAGES[first['average']]}, {first['stage']} training,\n"
        f"{WHICH[first['which']]}" + ("; ± 1 std over seeds" if table["std"].notna().any() else "")
    )
    if (table["method"] == "fedavg-fine-tuned").any():
        what += f"\n({FINE_TUNED}: after it, last round)"
    with styled():
        columns = 2 if table.groupby(["dataset", "alpha"]).ngroups <= 6 else 4
        figure, panels = panel_grid(table, columns, 4.6, 0.27 * rows + 1.2)
        for axis, panel in panels:
            for y, row in enumerate(panel.itertuples()):
                ours = row.method == "fedobp"
                color = HIGHLIGHT if ours else "#444444"
                axis.errorbar(
                    row.mean, y, xerr=0 if np.isnan(row.std) else row.std, fmt="o", ms=5,
                    color=color, elinewidth=1.2,
                )  # fmt: skip
                for column, style in marks.values():
                    axis.plot(getattr(row, column), y, **style)
            axis.set_yticks(range(len(panel)), panel["title"])
            for label in axis.get_yticklabels():
                if label.get_text() == METHODS["fedobp"].title:
                    label.set(color=HIGHLIGHT, fontweight="bold")
            axis.set_xlabel(what)
        if marks or source != "ours":
            dots = Line2D([], [], ls="none", marker="o", ms=5, color="#444444", label=name)
            others = [Line2D([], [], label=label, **style) for label, (_, style) in marks.items()]
            figure.legend(handles=[dots, *others], loc="outside lower center", ncols=3, fontsize=8)
        plt.close(figure)
    return figure
