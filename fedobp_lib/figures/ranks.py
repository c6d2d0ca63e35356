"""Mean ranks of methods over data sets, with the critical difference."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import UserError
from ..results.ranks import groups, told
from ..results.titles import title_of
from .style import HIGHLIGHT, styled

GREY = "#444444"
ROW = 0.2  # inches a method


def plot_ranks(ranks: pd.DataFrame, title: str = "") -> Figure:
    """Critical-difference diagram: best rank on the left, bars join what cannot be told apart.

    Args:
        ranks: as `fedobp_lib.results.ranks.mean_ranks` gives it; not empty.
        title: of the figure.

    Raises:
        UserError: there are no ranks to draw.
    """
    if ranks.empty:
        raise UserError(told(ranks))
    methods, cells = len(ranks), int(ranks["cells"].iloc[0])
    bars = groups(ranks)
    half = -(-methods // 2)
    # In units of a row, downwards from the axis: bars first, then the names on either side.
    below_bars = 0.6 * len(bars) + 0.7
    depth = below_bars + half
    with styled():
        figure, axis = plt.subplots(figsize=(7.2, ROW * depth + 0.9), layout="constrained")
        axis.set(xlim=(1, methods), ylim=(depth, 0))
        axis.xaxis.tick_top()
        axis.set_xticks(range(1, methods + 1))
        axis.xaxis.set_label_position("top")
        axis.set_xlabel(f"mean rank over {cells} data sets and alphas (1 is best)")
        axis.set_yticks([])
        axis.grid(False)
        for side in ("left", "bottom", "right"):
            axis.spines[side].set_visible(False)
        axis.spines["top"].set_visible(True)
        for number, (low, high) in enumerate(bars):
            place, over = 0.6 * number + 0.5, 0.005 * methods
            axis.plot(
                [low - over, high + over], [place, place],
                color="black", lw=3.2, zorder=4, solid_capstyle="butt", clip_on=False,
            )  # fmt: skip
        for number, row in enumerate(ranks.itertuples()):
            left = number < half
            line = number if left else methods - 1 - number
            _name(axis, row.method, row.rank, below_bars + line + 0.3, left)
        _ruler(axis, float(ranks["critical_difference"].iloc[0]), depth)
        axis.set_title(title, loc="left", pad=14)
        plt.close(figure)
    return figure


def _name(axis: Axes, method: str, rank: float, place: float, left: bool) -> None:
    own = method == "fedobp"
    color = HIGHLIGHT if own else GREY
    low, high = axis.get_xlim()
    span = high - low
    end = low - 0.02 * span if left else high + 0.02 * span
    axis.plot(
        [rank, rank, end], [0, place, place],
        color=color, lw=2.2 if own else 0.8, clip_on=False, zorder=5 if own else 2,
    )  # fmt: skip
    text = f"{title_of(method)}  {rank:.2f}" if left else f"{rank:.2f}  {title_of(method)}"
    axis.annotate(
        text,
        (end, place),
        xytext=(-4 if left else 4, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8.5,
        color=HIGHLIGHT if own else "black",
        fontweight="bold" if own else "normal",
        annotation_clip=False,
    )


def _ruler(axis: Axes, width: float, depth: float) -> None:
    """The critical difference, as long as it is on the axis."""
    low, high = axis.get_xlim()
    start = (low + high - width) / 2
    place = depth + 0.7
    axis.plot(
        [start, start + width], [place, place],
        color="black", lw=1, marker="|", ms=6, clip_on=False,
    )  # fmt: skip
    axis.annotate(
        f"critical difference {width:.2f}",
        ((low + high) / 2, place),
        xytext=(0, -5),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=8,
        annotation_clip=False,
    )
