"""FedSpa: accuracy and costs against density, gradients over rounds, accuracy against bytes."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from ..runs.sparse_models import DENSITY, fedspa_at
from .style import HIGHLIGHT, add_seeds, method_style, panel_grid, styled

TICKS = (1, 3, 10, 30, 100, 300)  # of rounds on a logarithmic axis
BLUE, GREEN, GREY = "#0072B2", "#009E73", "#666666"
# Costs, as multiples of FedAvg's: colour, and a dashed line for the dense machine.
COSTS = {
    "megabytes": ("bytes", BLUE, "-"),
    "gflop_sparse": ("FLOPs, zeros skipped", HIGHLIGHT, "-"),
    "gflop": ("FLOPs, dense machine", HIGHLIGHT, "--"),
    "memory_sparse": ("memory, zeros not stored", GREEN, "-"),
    "memory": ("memory, dense machine", GREEN, "--"),
}
# The lines against bytes: FedSpa at two densities, and what it is beside.
LINES = (fedspa_at(DENSITY), fedspa_at(0.2), "fedavg", "fedper", "fedobp")
FEDSPA_STYLE = {
    LINES[0]: {"color": "black", "lw": 2.0, "ls": "-", "zorder": 4},
    LINES[1]: {"color": "black", "lw": 1.4, "ls": "--", "zorder": 4},
}


def plot_densities(table: pd.DataFrame) -> Figure:
    """Accuracy against density, beside what a client's round costs in multiples of FedAvg's.

    Args:
        table: as `sparse_models.density_table` gives it.
    """
    groups = list(table.groupby(["dataset", "alpha"], sort=False))
    with styled():
        figure, axes = plt.subplots(
            len(groups), 2, figsize=(8.4, 3.2 * len(groups)), squeeze=False, layout="constrained"
        )
        for (left, right), ((dataset, alpha), rows) in zip(axes, groups, strict=True):
            _accuracies(left, rows)
            left.set_title(f"{dataset}, α = {alpha}", loc="left")
            for column, (name, color, dashes) in COSTS.items():
                values = rows[f"relative_{column}"]
                right.plot(
                    rows["density"], values, marker="o", ms=3.5, color=color, ls=dashes, label=name
                )
            right.axhline(1, color=GREY, lw=0.8)
            right.set_ylim(0)
            right.set_title("a client's round, times FedAvg's", loc="left")
            right.legend(fontsize=7.5, loc="lower right", handlelength=3.2)
            for axis in (left, right):
                axis.set_xlabel("density")
                axis.set_xticks(rows["density"], [f"{value:g}" for value in rows["density"]])
        plt.close(figure)
    return figure


def _accuracies(axis: Axes, rows: pd.DataFrame) -> None:
    spread = rows["std"].fillna(0)
    axis.errorbar(
        rows["density"], rows["mean"], yerr=spread, fmt="o-", ms=4, color="black", capsize=2,
        label="FedSpa",
    )  # fmt: skip
    if rows["fedavg"].notna().all():
        axis.axhline(rows["fedavg"].iloc[0], color=BLUE, lw=1.2, ls="--", label="FedAvg")
    seeds = int(rows["seeds"].max())
    told = "" if seeds == 1 else f"\n(whiskers: ± 1 std over {seeds} seeds)"
    axis.set_ylabel("accuracy before training, %" + told)
    axis.legend(fontsize=8, loc="lower right")


def plot_gradients(frame: pd.DataFrame) -> Figure:
    """The norm of the objective's gradient, and the running mean of its square beside the rate.

    Args:
        frame: as `sparse_rounds.gradient_frame` gives it.
    """
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained")
        looks = zip((BLUE, HIGHLIGHT), frame.groupby("variant", sort=False), strict=False)
        for color, (variant, rows) in looks:
            left.plot(rows["round"], rows["norm"], color=color, lw=1.4, label=variant)
            right.plot(rows["round"], rows["mean"], color=color, lw=1.6)
            half = rows[2 * rows["round"] > rows["round"].max()]
            right.plot(half["round"], half["line"], color=color, lw=1.0, ls=":")
        right.plot([], [], color=GREY, lw=1.0, ls=":", label="C/√T, over the second half")
        left.set_title("norm of the objective's gradient", loc="left")
        right.set_title("its square, mean over the rounds so far", loc="left")
        right.set(xscale="log", yscale="log")
        last = frame["round"].max()
        right.set_xticks([t for t in TICKS if t <= last], [f"{t}" for t in TICKS if t <= last])
        right.set_xticks([], minor=True)
        right.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        right.yaxis.set_minor_formatter(NullFormatter())
        left.set_ylim(0)
        for axes in (left, right):
            axes.set_xlabel("round")
        left.legend(fontsize=8, loc="upper right")
        right.legend(fontsize=8, loc="lower right")
        plt.close(figure)
    return figure


def plot_bytes(frame: pd.DataFrame) -> Figure:
    """Accuracy against what a client has received and sent, of FedSpa and a few others.

    Args:
        frame: as `sparse_models.curves` gives it.
    """
    frame = frame[frame["line"].isin(LINES)]
    styles = method_style([line for line in LINES if line not in FEDSPA_STYLE]) | FEDSPA_STYLE
    with styled():
        figure, panels = panel_grid(frame, 2, 5.2, 3.4)
        for axis, panel in panels:
            for (line, title), rows in panel.groupby(["line", "title"], sort=False):
                axis.plot(rows["megabytes"], rows["mean"], label=title, **styles[line])
                axis.fill_between(
                    rows["megabytes"], rows["low"], rows["high"], lw=0, alpha=0.08,
                    color=styles[line]["color"],
                )  # fmt: skip
                axis.plot(
                    rows["megabytes"].iloc[-1], rows["mean"].iloc[-1], "o", ms=4,
                    color=styles[line]["color"],
                )  # fmt: skip
            add_seeds(axis, panel)
            axis.set_xlim(0)
            axis.set_xlabel("received and sent by a client until then, MB on average")
            axis.set_ylabel("accuracy, %: all clients,\npooled, before training")
            axis.legend(fontsize=8, loc="lower right")
        plt.close(figure)
    return figure
