"""What partial personalization bears: losses by split, accuracy against a hardship, and attacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results.claims.about_partial import FITTED
from .style import HIGHLIGHT, label_ends, seeds_text, styled, whole_numbers

# FFGG is what these figures are about.
STYLES: dict[str, dict[str, Any]] = {
    "ffgg": {"color": HIGHLIGHT, "lw": 2.4, "ls": "-", "marker": "o", "ms": 5},
    "fedper": {"color": "#009E73", "lw": 1.3, "ls": "-.", "marker": "^", "ms": 5},
    "fedavg": {"color": "#0072B2", "lw": 1.3, "ls": "--", "marker": "s", "ms": 5},
    "still": {"color": "#666666", "lw": 1.1, "ls": ":"},
}
ATTACKS = {"none": "no attack", "sign_flip": "sign flip", "noise": "noise", "label_flip": "labels"}


def plot_splits(frame: pd.DataFrame) -> Figure:
    """Training loss of every client over rounds, a panel for each split.

    Args:
        frame: as `partial.split_losses` gives it.
    """
    splits = list(frame.groupby("split", sort=False))
    with styled():
        figure, axes = plt.subplots(
            1, len(splits), figsize=(2.3 * len(splits), 2.9), sharey=True, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for number, (axis, (split, rows)) in enumerate(zip(axes[0], splits, strict=True)):
            color = HIGHLIGHT if number == 0 else "#0072B2"
            for _, line in rows.groupby("client"):
                axis.semilogy(line["round"], line["loss"], color=color, lw=1.2, alpha=0.8)
            axis.axhline(FITTED, color="black", lw=0.8, ls=":")
            last = rows[rows["round"] == rows["round"].max()]
            told = f"worst {last['loss'].max():.1g}, test {last['accuracy'].mean():.0f} %"
            axis.set_title(f"local: {split}\n{told}", loc="left", fontsize=8.5)
            whole_numbers(axis, "round")
        axes[0][0].set_ylabel("training loss, nats; a line a client")
        plt.close(figure)
    return figure


def plot_bearing(frame: pd.DataFrame, xlabel: str) -> Figure:
    """Accuracy against what makes the task harder, a line a method.

    Args:
        frame: as `partial.bearing` gives it; of a panel, data set and alpha an axis each.
        xlabel: what `value` is.
    """
    keys = ["dataset", "alpha", "panel"]
    groups = list(frame.groupby(keys, sort=False))
    with styled():
        figure, axes = plt.subplots(
            -(-len(groups) // 2) or 1, min(2, len(groups)) or 1, squeeze=False,
            figsize=(4.1 * (min(2, len(groups)) or 1), 2.9 * (-(-len(groups) // 2) or 1)),
            layout="constrained", sharey=True,
        )  # fmt: skip
        for axis in axes.flat[len(groups) :]:
            axis.axis("off")
        for axis, ((dataset, alpha, panel), rows) in zip(axes.flat, groups, strict=False):
            _lines(axis, rows)
            seeds = seeds_text(int((rows["seeds"] + rows["diverged"]).max()))
            axis.set_title(f"{panel}: {dataset}, α = {alpha}   ({seeds})", loc="left")
            axis.set_xlabel(xlabel)
        for row in axes:
            row[0].set_ylabel("accuracy of all clients, %:\npooled, before training, last round")
        plt.close(figure)
    return figure


def _lines(axis: Axes, rows: pd.DataFrame) -> None:
    values = sorted(rows["value"].unique())
    ends = []
    for method, line in rows.groupby("method", sort=False):
        style = STYLES[str(method)]
        line = line.sort_values("value")
        x = [values.index(value) for value in line["value"]]
        if method == "still":  # of one value, and the same for all
            axis.axhline(line["mean"].iloc[0], **style)
        axis.plot(x, line["mean"], **style)
        spread = line["std"].fillna(0)
        axis.fill_between(
            x, line["mean"] - spread, line["mean"] + spread, color=style["color"], alpha=0.13, lw=0
        )
        ends.append((line["mean"].ffill().iloc[-1], line["title"].iloc[0], style))
    axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axis.set_xlim(-0.15, len(values) - 0.85)
    axis.margins(y=0.12)
    label_ends(axis, len(values) - 1 + 0.05, ends)


def plot_byzantine(frame: pd.DataFrame) -> Figure:
    """Accuracy of the honest clients as a table of colours: a block a method, aggregators across.

    Args:
        frame: as `partial.byzantine` gives it.
    """
    cells = list(frame.groupby(["dataset", "alpha"], sort=False))
    methods = [name for name in dict.fromkeys(frame["method"]) if name != "still"]
    attacks = list(dict.fromkeys(zip(frame["attack"], frame["share"], strict=True)))
    height = 0.33 * len(attacks) + 1.1
    with styled(axes_grid=False):
        figure, axes = plt.subplots(
            len(cells) or 1, len(methods) or 1, squeeze=False, layout="constrained",
            figsize=(2.5 * len(methods) + 1.2, height * (len(cells) or 1)),
        )  # fmt: skip
        for row, ((dataset, alpha), rows) in zip(axes, cells, strict=False):
            for axis, method in zip(row, methods, strict=True):
                _block(axis, rows[rows["method"] == method], attacks)
                axis.tick_params(labelleft=axis is row[0])
            for still in rows[rows["method"] == "still"]["mean"]:  # of FFGG, which is first
                row[0].set_xlabel(f"body as at first: {still:.0f}", fontsize=8)
            row[0].set_ylabel(f"{dataset}, α = {alpha}")
        plt.close(figure)
    return figure


def _block(axis: Axes, rows: pd.DataFrame, attacks: list[tuple[str, float]]) -> None:
    names = list(dict.fromkeys(rows["aggregator"]))
    table = rows.set_index(["attack", "share", "aggregator"])["mean"]
    keys = [[(*attack, name) for name in names] for attack in attacks]
    values = np.array([[table.get(key, np.nan) for key in line] for line in keys])
    axis.imshow(np.nan_to_num(values), cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        text = f"{value:.0f}"
        if np.isnan(value):
            text = "diverged" if keys[y][x] in table.index else ""
        color = "white" if np.nan_to_num(value) < 55 else "black"
        axis.text(x, y, text, ha="center", va="center", color=color, fontsize=8)
    short = [name.partition(":")[0] for name in names]
    axis.set_xticks(range(len(names)), short, fontsize=8)
    told = [ATTACKS[kind] + (f", {share:.0%}" if share else "") for kind, share in attacks]
    axis.set_yticks(range(len(attacks)), told, fontsize=8)
    axis.set_title(rows["title"].iloc[0], loc="left")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
