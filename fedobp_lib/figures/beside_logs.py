"""Our runs less what the paper's authors logged."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..results.titles import title_of
from .style import HIGHLIGHT, panel_grid, styled

STAGES: dict[str, dict[str, Any]] = {
    "before": {"marker": "o", "dy": 0.14},
    "after": {"marker": "D", "dy": -0.14},
}
WIDEST = 12.0  # percentage points; what lies further out stands at the edge, with its number


def plot_beside_logs(table: pd.DataFrame, round_: int = 100) -> Figure:
    """Differences of each method before and after local training, with what the rule allows.

    Args:
        table: as `own_runs.beside_logs` gives it.
        round_: of the evaluations shown.
    """
    table = table[table["round"] == round_]
    rows = table.groupby(["dataset", "alpha"])["method"].nunique().max() if len(table) else 1
    with styled():
        figure, panels = panel_grid(table, 3, 3.4, 0.3 * rows + 0.9, "nothing to compare yet")
        for axis, panel in panels:
            furthest = max(panel["difference"].abs().max(), panel["margin"].max())
            edge = min(WIDEST, furthest * 1.15)
            methods = list(dict.fromkeys(panel.sort_values("method", ascending=False)["method"]))
            for row in panel.itertuples():
                mark = STAGES[row.stage]
                y = methods.index(row.method) + mark["dy"]
                axis.plot(
                    [-row.margin, row.margin],
                    [y, y],
                    color="#dddddd",
                    lw=5,
                    zorder=1,
                    solid_capstyle="butt",
                )
                x = max(-edge, min(edge, row.difference))
                color = "black" if row.verdict == "agrees" else HIGHLIGHT
                axis.plot(
                    x, y, ls="none", marker=mark["marker"], ms=5, color=color,
                    mfc=color if row.stage == "before" else "white", zorder=3,
                )  # fmt: skip
                if x != row.difference:
                    axis.annotate(
                        f"{row.difference:+.1f}", (x, y), (-5 if x > 0 else 5, 0),
                        textcoords="offset points", fontsize=7, va="center",
                        ha="right" if x > 0 else "left",
                    )  # fmt: skip
            axis.axvline(0, color="#888888", lw=0.8, zorder=2)
            axis.set_yticks(range(len(methods)), [title_of(m) for m in methods])
            axis.set_ylim(-0.6, len(methods) - 0.4)  # also where one stage alone was tested
            axis.set_xlim(-edge * 1.08, edge * 1.08)
            axis.grid(axis="y", visible=False)
            axis.set_xlabel(f"ours less logged, round {round_}, points")
        _explain(figure)
        plt.close(figure)
    return figure


def _explain(figure: Figure) -> None:
    dots = [
        Line2D([], [], ls="none", marker=mark["marker"], ms=5, color="black",
               mfc="black" if stage == "before" else "white", label=f"{stage} local training")
        for stage, mark in STAGES.items()
    ]  # fmt: skip
    away = Line2D([], [], ls="none", marker="o", ms=5, color=HIGHLIGHT, label="differs")
    allowed = Patch(color="#dddddd", label="what the rule allows")
    figure.legend(
        handles=[*dots, allowed, away], loc="outside lower center", ncols=4, fontsize=8
    )  # fmt: skip
