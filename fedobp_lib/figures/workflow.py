"""A round of FedOBP as boxes and arrows, with the numbers of one client (paper, Figure 1)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from .style import HIGHLIGHT, styled

# Inches: a box a step, five in a row.
WIDTH, GAP, LINE, MARGIN = 1.5, 0.27, 0.165, 0.16
GREY = "#555555"


def plot_workflow(frame: pd.DataFrame) -> Figure:
    """Draw what server and client do in a round.

    Args:
        frame: step, quantity, value, as `inspection.workflow_frame` gives it.
    """
    value = {(row.step, row.quantity): row.value for row in frame.itertuples()}
    prefix = "personal in "
    layers = {q.removeprefix(prefix): v for (_, q), v in value.items() if q.startswith(prefix)}

    def number(step: str, quantity: str) -> str:
        return f"{value[step, quantity]:,.0f}"

    def percent(step: str, quantity: str) -> str:
        return f"{value[step, quantity]:.1f} %"

    def power(step: str, quantity: str) -> str:
        digits, _, exponent = f"{value[step, quantity]:.1e}".partition("e")
        return f"${digits}\\cdot 10^{{{int(exponent)}}}$" if value[step, quantity] else "0"

    size = number("send", "parameters")
    epochs = number("train", "epochs")
    steps = [
        ("1  score", ["local − global, squared:", "$I = (θ_i − θ_g)^2$",
                      f"median {power('score', 'median')}",
                      f"largest {power('score', 'largest')}"]),
        ("2  threshold", [f"q = {value['threshold', 'quantile']:g} quantile",
                          "of the scores:", f"τ = {power('threshold', 'tau')}"]),
        ("3  decouple", [f"**{number('decouple', 'personal')} personal",
                         *(f"   {layer}: {kept:,.0f}" for layer, kept in layers.items()),
                         f"{number('decouple', 'global')} global"]),
        ("4  merge", ["own where personal,", "server's elsewhere", "accuracy before",
                      f"training: **{percent('merge', 'accuracy before')}"]),
        ("5  train", [f"{epochs} epoch{'s' * (epochs != '1')} on",
                      f"{number('train', 'samples')} samples;", "accuracy after",
                      f"training: **{percent('train', 'accuracy after')}"]),
    ]  # fmt: skip
    tall = LINE * max(len(lines) for _, lines in steps) + 2 * MARGIN
    low = 0.75  # a server's box: a title and two lines
    lanes = (0.0, tall + 0.95)  # the lower edges of client and server
    full = 5 * WIDTH + 4 * GAP
    left = [k * (WIDTH + GAP) for k in range(5)]
    with styled(axes_grid=False):
        figure, axis = plt.subplots(figsize=(full + 0.5, lanes[1] + low + 0.5))
        axis.set_position((0, 0, 1, 1))
        axis.set(xlim=(-0.25, full + 0.25), ylim=(-0.4, lanes[1] + low + 0.1))
        axis.axis("off")

        _lane(axis, lanes[0], full, tall, f"client {number('score', 'client')}")
        for x, (title, lines) in zip(left, steps, strict=True):
            _box(axis, x, lanes[0], WIDTH, tall, title, lines)
        for x in left[1:]:
            _arrow(axis, (x - GAP, tall / 2), (x, tall / 2))

        clients, begun = number("average", "clients"), number("send", "round")
        sends = ["global model $θ_g$,", f"{size} parameters"]
        averages = [f"{clients} clients, weighted", "by training samples"]
        _box(axis, left[0], lanes[1], WIDTH, low, "server sends", sends)
        _box(axis, left[4], lanes[1], WIDTH, low, "server averages", averages)
        down, up, middle = left[0] + WIDTH / 2, left[4] + WIDTH / 2, lanes[1] + low / 2
        uploads = f"uploads {number('upload', 'numbers')}"
        _arrow(axis, (down, lanes[1]), (down, tall))
        _arrow(axis, (up, tall), (up, lanes[1]))
        _arrow(axis, (left[4], middle), (left[0] + WIDTH, middle), dashed=True)
        between = tall + 0.5
        for x, y, side, label in (
            (down + 0.1, between, "left", "$θ_g$"),
            (up - 0.1, between, "right", uploads),
            (full / 2, middle + 0.13, "center", f"the new global model; round {begun} begins"),
        ):
            axis.text(x, y, label, ha=side, va="center", fontsize=8, color=GREY)
        plt.close(figure)
    return figure


def _lane(axis: Axes, y: float, width: float, height: float, title: str) -> None:
    shape = FancyBboxPatch(
        (-0.1, y - 0.36), width + 0.2, height + 0.46, boxstyle="round,pad=0,rounding_size=0.08",
        fc="#f4f4f4", ec="none", zorder=0,
    )  # fmt: skip
    axis.add_patch(shape)
    axis.text(0, y - 0.18, title, fontsize=9, fontweight="bold", va="center", color=GREY)


def _box(
    axis: Axes, x: float, y: float, width: float, height: float, title: str, lines: list[str]
) -> None:
    """A box with a bold title; what stands after ** in a line is bold and in FedOBP's colour."""
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", fc="white", ec="#333333",
        lw=0.9, zorder=2,
    )  # fmt: skip
    axis.add_patch(shape)
    top = y + height - MARGIN
    strong: dict[str, Any] = {"fontweight": "bold", "color": HIGHLIGHT}
    axis.text(x + 0.08, top, title, fontsize=8.5, fontweight="bold", va="center", zorder=3)
    for k, line in enumerate(lines, 1):
        before, _, after = line.partition("**")
        place = (x + 0.08, top - k * LINE)
        drawn = axis.annotate(
            before or after, place, fontsize=8, va="center", zorder=3, **({} if before else strong)
        )
        if before and after:
            axis.annotate(
                after, (1, 0), xycoords=drawn, xytext=(1.5, 0), textcoords="offset points",
                fontsize=8, va="bottom", zorder=3, **strong,
            )  # fmt: skip


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], dashed: bool = False
) -> None:
    style = {"arrowstyle": "-|>", "color": GREY, "lw": 1.2, "shrinkA": 1, "shrinkB": 1}
    style["ls"] = "--" if dashed else "-"
    axis.annotate("", end, start, arrowprops=style, zorder=1)
