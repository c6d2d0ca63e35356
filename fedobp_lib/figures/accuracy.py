"""Accuracies of all methods side by side."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..methods import METHODS
from .style import HIGHLIGHT, STYLE


def plot_accuracy(table: pd.DataFrame, published: bool = True) -> Figure:
    """Dots with standard deviations, one panel a data set and alpha, best method on top.

    Args:
        table: as `tables.accuracy_table` gives it.
        published: mark the published value with a cross where there is one.
    """
    panels = list(table.groupby(["dataset", "alpha"], sort=False))
    rows = max(len(panel) for _, panel in panels)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, figsize=(4.6 * columns, (0.27 * rows + 0.9) * lines),
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for axis, ((dataset, alpha), panel) in zip(axes.flat, panels, strict=False):
            for y, row in enumerate(panel.itertuples()):
                ours = row.method == "fedobp"
                color = HIGHLIGHT if ours else "#444444"
                axis.errorbar(
                    row.mean, y, xerr=0 if np.isnan(row.std) else row.std, fmt="o", ms=5,
                    color=color, elinewidth=1.2,
                )  # fmt: skip
                if published and not np.isnan(row.published_mean):
                    axis.plot(row.published_mean, y, "x", color="#0072B2", ms=6)
            axis.set_yticks(range(len(panel)), panel["title"])
            for label in axis.get_yticklabels():
                if label.get_text() == METHODS["fedobp"].title:
                    label.set(color=HIGHLIGHT, fontweight="bold")
            axis.set_title(f"{dataset}, α = {alpha}", loc="left")
            axis.set_xlabel("accuracy over all clients, %  (± 1 std over seeds)")
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        plt.close(figure)
    return figure
