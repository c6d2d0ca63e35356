"""Accuracy over rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..results.convergence import smooth
from ..results.titles import title_of
from ..runs.store import RunResult
from .style import (
    HIGHLIGHT,
    add_seeds,
    label_ends,
    method_style,
    panel_grid,
    seeds_text,
    styled,
    whole_numbers,
)

MANY = 7  # more lines in one panel cannot be told apart


def plot_convergence(
    frame: pd.DataFrame,
    columns: int = 2,
    styles: Mapping[str, dict[str, Any]] | None = None,
    behind: pd.DataFrame | None = None,
) -> Figure:
    """Accuracy over rounds, with bands.

    Few methods: one panel a data set and alpha, lines labelled at their ends. More than
    `MANY` methods: one small panel a method.

    Args:
        frame: as `convergence_frame` gives it.
        columns: panels side by side.
        styles: how to draw each line; None: `method_style`.
        behind: a frame of the same kind with what the paper's authors logged, drawn dotted where
            it has the same data set, alpha and method.
    """
    logged = Behind(frame, behind)
    if frame["method"].nunique() > MANY:
        return _small_multiples(list(frame.groupby(["dataset", "alpha"], sort=False)), logged)
    with styled():
        figure, panels = panel_grid(frame, columns, 4.6, 3.3)
        for axis, panel in panels:
            styles_here = styles or method_style(list(panel["method"].unique()))
            _curves(axis, panel, styles_here, logged)
            add_seeds(axis, panel)
            whole_numbers(axis, "round")
            axis.set_ylabel("accuracy, %: " + ",\n".join(_what(panel)))
        logged.explain(figure)
        plt.close(figure)
    return figure


class Behind:
    """The logged lines behind our own; nothing where there are none."""

    def __init__(self, frame: pd.DataFrame, behind: pd.DataFrame | None) -> None:
        self._lines: dict[Any, pd.DataFrame] = {}
        if behind is not None:
            keys = ["dataset", "alpha", "method"]
            ours = set(map(tuple, frame[keys].drop_duplicates().to_numpy().tolist()))
            last = frame.groupby(keys)["round"].max()
            self._lines = {
                key: line[line["round"] <= last[key]]
                for key, line in behind.groupby(keys, sort=False)
                if tuple(key) in ours
            }

    def draw(self, axis: Axes, panel: pd.DataFrame, method: str, color: str) -> None:
        """Draw the line of a method of a panel."""
        first = panel.iloc[0]
        line = self._lines.get((first["dataset"], first["alpha"], method))
        if line is not None:
            axis.plot(line["round"], line["mean"], color=color, lw=1.1, ls=":", zorder=4)

    def explain(self, figure: Figure) -> None:
        """Say what a dotted line is."""
        if self._lines:
            line = Line2D([], [], color="#444444", lw=1.1, ls=":")
            figure.legend(
                [line], ["dotted: logged by the paper's authors"], loc="outside lower center",
                fontsize=8,
            )  # fmt: skip


def _what(panel: pd.DataFrame) -> tuple[str, str]:
    """Which accuracy a panel shows: of whom, and how and when it was measured."""
    scope = {"cohort": "clients of the round", "all": "all clients"}[panel["scope"].iloc[0]]
    average = {"pooled": "pooled", "client_mean": "client mean"}[panel["average"].iloc[0]]
    return scope, f"{average}, {panel['stage'].iloc[0]} training"


def _small_multiples(
    panels: list[tuple[tuple[str, float], pd.DataFrame]], logged: Behind
) -> Figure:
    """A block a data set and alpha: each method alone against FedOBP, all others pale behind."""
    columns = 4
    heights = [-(-panel["method"].nunique() // columns) for _, panel in panels]
    with styled():
        figure = plt.figure(
            figsize=(8.4, 1.5 * sum(heights) + 0.6 * len(panels)),
            layout="constrained",
            dpi=72,  # on the screen only; keeps notebooks small
        )
        blocks = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)
        for block, rows, ((dataset, alpha), panel) in zip(
            blocks.flat, heights, panels, strict=True
        ):
            seeds = seeds_text(int(panel["seeds"].max()))
            block.suptitle(
                f"{dataset}, α = {alpha}   {', '.join(_what(panel))}   ({seeds})",
                x=0.01, ha="left", fontsize=10,
            )  # fmt: skip
            axes = block.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
            _method_panels(axes, panel, logged)
        logged.explain(figure)
        plt.close(figure)
    return figure


def _method_panels(axes: np.ndarray, panel: pd.DataFrame, logged: Behind) -> None:
    best = panel.groupby("method")["mean"].apply(lambda mean: mean.iloc[-1])
    order = list(best.sort_values(ascending=False).index)
    lines = dict(list(panel.groupby("method", sort=False)))
    ours = lines.get("fedobp")
    for axis, method in zip(axes.flat, order, strict=False):
        for other in lines.values():
            axis.plot(other["round"], other["mean"], color="#d9d9d9", lw=0.6)
        if ours is not None:
            axis.plot(ours["round"], ours["mean"], color=HIGHLIGHT, lw=1.0, ls="--", zorder=4)
        line, own = lines[method], method == "fedobp"
        color = HIGHLIGHT if own else "#0072B2"
        axis.plot(line["round"], line["mean"], color=color, lw=2.2 if own else 1.6, zorder=5)
        axis.fill_between(line["round"], line["low"], line["high"], color=color, alpha=0.18, lw=0)
        logged.draw(axis, panel, str(method), "black")
        axis.set_title(
            f"{title_of(method)}  {best[method]:.1f}",
            loc="left", pad=3, fontsize=8.5, color=color if own else "black",
            fontweight="bold" if own else "normal",
        )  # fmt: skip
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.tick_params(labelsize=7.5)
    # First rounds far below would squeeze what matters; a few values may be cut off.
    floor = max(0, np.floor(panel["mean"].quantile(0.02) - 5))
    axes.flat[0].set_ylim(floor, min(101, panel["high"].max() + 2))
    for axis in axes.flat[len(order) :]:
        axis.axis("off")
    for axis in axes.flat[max(0, len(order) - axes.shape[1]) : len(order)]:  # the lowest ones
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("round", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, %", fontsize=8)


def _curves(
    axis: Axes, panel: pd.DataFrame, styles: Mapping[str, dict[str, Any]], logged: Behind
) -> None:
    ends = []
    for method, line in panel.groupby("method", sort=False):
        style = styles[method]
        axis.plot(line["round"], line["mean"], solid_capstyle="round", **style)
        axis.fill_between(
            line["round"], line["low"], line["high"], color=style["color"], alpha=0.13, lw=0
        )
        logged.draw(axis, panel, str(method), style["color"])
        ends.append((line["mean"].iloc[-1], title_of(method), style))
    last = panel["round"].max()
    axis.set_xlim(panel["round"].min(), last)
    low, high = axis.dataLim.intervaly  # of the logged lines too
    axis.set_ylim(max(0, low - 3), min(101, high + 3))
    label_ends(axis, last, ends)


def plot_history(history: pd.DataFrame, title: str) -> Figure:
    """Accuracy over rounds of one run: the cohort before and after training, and all clients.

    Args:
        history: as a run keeps it.
        title: of the figure.
    """
    history = history[history["average"] == "pooled"]
    with styled():
        figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
        for stage, color in (("before", HIGHLIGHT), ("after", "#0072B2")):
            cohort = history.query("scope == 'cohort' and stage == @stage")
            axis.plot(cohort["round"], cohort["accuracy"], color=color, lw=0.6, alpha=0.35)
            axis.plot(
                cohort["round"], smooth(cohort["accuracy"].to_numpy()), color=color, lw=1.8,
                ls="-" if stage == "before" else "--",
                label=f"cohort, {stage} local training (smoothed)",
            )  # fmt: skip
            every = history.query("scope == 'all' and stage == @stage")
            axis.plot(
                every["round"], every["accuracy"], ls="none",
                marker="o" if stage == "before" else "s", mfc="white", color=color, ms=6,
                label=f"all clients, {stage}",
            )  # fmt: skip
        whole_numbers(axis, "round")
        axis.set_ylabel("pooled accuracy, %")
        axis.set_title(title, loc="left")
        axis.legend(fontsize=8, loc="lower right")
        plt.close(figure)
    return figure


def plot_run(result: RunResult) -> Figure:
    """Accuracy over rounds of a finished run; see `plot_history`."""
    config = result.config
    title = f"{config.method} on {config.dataset}, α = {config.alpha}, seed {config.seed}"
    return plot_history(result.history, title)
