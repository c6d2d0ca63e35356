"""Rules of selection: accuracy against the number of personal parameters, and differences."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..results.rules import MARGIN
from ..runs.rules import CONTROL, NO_NUMBER, ONE_NUMBER, OTHER, REFERENCE
from .style import HIGHLIGHT, panel_grid, styled

KINDS: dict[str, dict[str, Any]] = {
    REFERENCE: {"color": HIGHLIGHT, "marker": "o"},
    ONE_NUMBER: {"color": "#0072B2", "marker": "s"},
    NO_NUMBER: {"color": "#009E73", "marker": "D"},
    CONTROL: {"color": "#666666", "marker": "^"},
    OTHER: {"color": "#CC79A7", "marker": "v"},
}
LEGEND = {
    REFERENCE: "quantile tuned for the data set",
    ONE_NUMBER: "one number for all data sets",
    NO_NUMBER: "no number",
    CONTROL: "control",
    OTHER: "other method",
}


def plot_rules(table: pd.DataFrame) -> Figure:
    """Accuracy before local training against the number of personal parameters.

    Args:
        table: as `rules.rule_table` gives it.
    """
    with styled():
        figure, panels = panel_grid(table, 1, 7.2, 4.4, dpi=90)
        for axis, rows in panels:
            points = []
            for row in rows.itertuples():
                std = 0 if pd.isna(row.before_std) else row.before_std
                style = KINDS[row.kind]
                axis.errorbar(
                    row.personal, row.before, yerr=std, ls="none", ms=6, elinewidth=0.8, **style
                )
                points.append((row.personal, row.before, row.title, style["color"]))
            fedavg = rows[rows["variant"] == "fedavg"]["after"]
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(-0.35, 3 * max(10, rows["personal"].max()))
            for value in fedavg:
                axis.axhline(value, color=KINDS[OTHER]["color"], lw=1, ls="--", zorder=1)
                points.append((0.0, value, "FedAvg after fine-tuning", KINDS[OTHER]["color"]))
            axis.margins(y=0.08)
            _name(axis, points)
            axis.set_xlabel("personal parameters of a client, mean")
            axis.set_ylabel("accuracy before local training, %")
        marks = [
            Line2D([], [], ls="none", ms=6, label=LEGEND[kind], **style)
            for kind, style in KINDS.items()
            if kind in set(table["kind"])
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=3, fontsize=8)
        plt.close(figure)
    return figure


def plot_differences(differences: pd.DataFrame) -> Figure:
    """Each variant less Table 5's quantile, with intervals.

    Args:
        differences: as `rules.difference_table` gives it.
    """
    looks = {"before": ("o", HIGHLIGHT, 0.14), "after": ("o", "#0072B2", -0.14)}
    height = 0.27 * differences["title"].nunique() + 1.3
    with styled():
        figure, panels = panel_grid(differences, 2, 5.6, height)
        for axis, rows in panels:
            titles = list(rows["title"].unique())[::-1]
            axis.axvspan(-MARGIN, MARGIN, color="#eeeeee", zorder=0)
            axis.axvline(0, color="black", lw=0.9, zorder=1)
            for row in rows.itertuples():
                marker, color, shift = looks[row.stage]
                y = titles.index(row.title) + shift
                axis.plot([row.low, row.high], [y, y], color=color, lw=1.2)
                axis.plot(row.difference, y, marker, color=color, ms=4.5)
            axis.set_yticks(range(len(titles)), titles)
            seeds = int(rows["seeds"].max())
            axis.set_xlabel(
                "points more than with Table 5's quantile\n"
                + ("1 seed" if seeds == 1 else f"95 % intervals over {seeds} seeds, paired")
                + f"; grey: ± {MARGIN}"
            )
        marks = [
            Line2D([], [], marker=marker, color=color, lw=1.2, ms=4.5, label=f"{stage} training")
            for stage, (marker, color, _) in looks.items()
        ]
        figure.legend(handles=marks, loc="outside lower center", ncols=2, fontsize=8)
        plt.close(figure)
    return figure


def _name(axis: Axes, points: list[tuple[float, float, str, str]]) -> None:
    """Names in a column at the right, in the order of the points' heights."""
    low, high = axis.get_ylim()
    ordered = sorted(points, key=lambda point: point[1])
    for place, (x, y, title, color) in enumerate(ordered):
        height = low + (high - low) * (place + 0.5) / len(ordered)
        axis.annotate(
            title, (x, y), (1.03, height), textcoords=axis.get_yaxis_transform(), fontsize=7.5,
            color=color, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "lw": 0.4, "alpha": 0.6,
                        "shrinkA": 0, "shrinkB": 3, "relpos": (0, 0.5)},
        )  # fmt: skip
