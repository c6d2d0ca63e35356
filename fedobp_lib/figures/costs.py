"""Accuracy beside what it costs a client."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import HIGHLIGHT, styled

GREY = "#8a8a8a"
COSTS = {
    "relative": "computing, times FedAvg's",
    "megabytes": "received and sent, MB",
    "kept": "kept by the client, MB",
}
WHEN = ("in a round", "in a round", "between its rounds")


def plot_costs(table: pd.DataFrame) -> Figure:
    """Accuracies as dots, and a client's costs of a round as bars, a method a row, best on top.

    Args:
        table: as `cloud_edge.client_costs` gives it.
    """
    groups = list(table.groupby(["dataset", "alpha"], sort=False))
    height = sum(0.24 * len(rows) + 0.8 for _, rows in groups)
    with styled():
        figure, axes = plt.subplots(
            len(groups), 1 + len(COSTS), figsize=(10, height), squeeze=False, sharey="row",
            layout="constrained", width_ratios=[1.25, 1, 1, 1],
            height_ratios=[len(rows) + 3 for _, rows in groups],
        )  # fmt: skip
        for row, ((dataset, alpha), rows) in zip(axes, groups, strict=True):
            colors = [HIGHLIGHT if m == "fedobp" else GREY for m in rows["method"]]
            _dots(row[0], rows, colors)
            row[0].set_title(f"{dataset}, α = {alpha}", loc="left")
            for axis, (column, title) in zip(row[1:], COSTS.items(), strict=True):
                _bars(axis, rows[column].to_numpy(), colors)
                axis.set_title(title, loc="left", fontsize=9)
            row[0].set_ylim(-0.6, len(rows) - 0.4)
        for axis, when in zip(axes[-1][1:], WHEN, strict=True):
            axis.set_xlabel(when)
        axes[-1][0].set_xlabel("accuracy, %" + _spread(table))
        plt.close(figure)
    return figure


def _dots(axis: Axes, rows: pd.DataFrame, colors: list[str]) -> None:
    for y, (mean, std, color) in enumerate(zip(rows["mean"], rows["std"], colors, strict=True)):
        spread = 0 if np.isnan(std) else std
        axis.errorbar(mean, y, xerr=spread, fmt="o", ms=5, color=color, elinewidth=1.2)
    axis.set_yticks(range(len(rows)), rows["title"])
    for label, color in zip(axis.get_yticklabels(), colors, strict=True):
        if color == HIGHLIGHT:
            label.set(color=HIGHLIGHT, fontweight="bold")


def _bars(axis: Axes, values: np.ndarray, colors: list[str]) -> None:
    bars = axis.barh(range(len(values)), values, color=colors, height=0.6)
    texts = ["" if np.isnan(value) else f"{value:.2f}" for value in values]
    axis.bar_label(bars, texts, padding=2, fontsize=7.5)
    axis.margins(x=0.18)
    axis.grid(axis="y", visible=False)


def _spread(table: pd.DataFrame) -> str:
    return "; ± 1 std over seeds" if table["std"].notna().any() else ""
