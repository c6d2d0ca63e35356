"""What all figures have in common: colours, line styles, labels, and how they are saved."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .. import paths
from ..methods import METHODS
from ..results.logged import FOLDER
from ..runs.files import write, write_csv, writing_to

LOGGED_BY = "numbers logged by the paper's authors: one run, seed 42, momentum 0.7"
PRINTED = "numbers printed in the paper's Tables 1 and 6"
HIGHLIGHT = "#D55E00"
OTHERS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#666666", "#B8860B", "#882255")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
# The variants of `normalizations.ALL_NORMALIZATIONS`. `none` is FedOBP as the paper has it;
# `global` must lie upon it, so it is drawn above and thin.
NORMALIZATION_STYLE: dict[str, dict[str, Any]] = {
    "none": {"color": HIGHLIGHT, "lw": 3.2, "ls": "-", "zorder": 3},
    "layer": {"color": "#0072B2", "lw": 1.3, "ls": "-.", "zorder": 4},
    "global": {"color": "black", "lw": 1.1, "ls": "--", "zorder": 5},
    "global_classifier_only": {"color": "#009E73", "lw": 1.3, "ls": ":", "zorder": 4},
    "layer_of_the_text": {"color": "#56B4E9", "lw": 1.1, "ls": "-.", "zorder": 3},
    "classifier_same_quantile": {"color": "#CC79A7", "lw": 1.1, "ls": ":", "zorder": 3},
}
FEW_PANELS = 4  # more of them are shown smaller
STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    # No random identifiers in the files: the same data give the same bytes.
    "svg.hashsalt": "fedobp",
}


def styled(**changes: Any) -> AbstractContextManager[None]:
    """The look of all figures, for the time of drawing one.

    Args:
        changes: of matplotlib's parameters, with `_` for the dot.
    """
    values = STYLE | {name.replace("_", ".", 1): value for name, value in changes.items()}
    # From matplotlib's defaults: a `matplotlibrc` of the user is for the user's own figures.
    return plt.style.context(["default", values])


def save(
    figure: Figure, frame: pd.DataFrame, name: str, preset: str, foot: str = LOGGED_BY
) -> Path:
    """Write NAME.pdf, NAME.png and NAME.csv into `figures/PRESET/`; returns that folder.

    Args:
        figure: what is shown.
        frame: its numbers.
        name: of the files.
        preset: of the folder.
        foot: where the numbers are from; stands under the figures beside the authors' logs.
    """
    folder = paths.figures_dir(preset)
    if preset == FOLDER:
        figure.text(
            1, -0.005, foot, ha="right", va="top", fontsize=7, style="italic", color="#555555"
        )
    with styled():
        pdf, png = BytesIO(), BytesIO()
        figure.savefig(pdf, format="pdf", bbox_inches="tight", metadata={"CreationDate": None})
        dpi = 120 if preset == FOLDER else STYLE["savefig.dpi"]
        figure.savefig(png, format="png", bbox_inches="tight", metadata={"Software": None}, dpi=dpi)
    if preset == FOLDER:  # many pictures, kept small
        picture, png = Image.open(png).convert("RGB").quantize(64), BytesIO()
        picture.save(png, format="png", optimize=True)
    with writing_to(folder):
        write(folder / f"{name}.pdf", lambda file: file.write(pdf.getvalue()))
        write(folder / f"{name}.png", lambda file: file.write(png.getvalue()))
    save_table(frame, name, preset)
    return folder


def save_table(frame: pd.DataFrame, name: str, preset: str) -> Path:
    """Write NAME.csv into `figures/PRESET/`; returns the file."""
    folder = paths.figures_dir(preset)
    digits = "%.4f" if preset == FOLDER else None  # the logs have two decimals
    with writing_to(folder):
        write_csv(folder / f"{name}.csv", frame, float_format=digits)
    return folder / f"{name}.csv"


def panel_grid(
    frame: pd.DataFrame,
    columns: int,
    width: float,
    height: float,
    empty: str = "",
    dpi: float | None = None,
) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A figure with one titled panel a data set and alpha.

    Args:
        frame: with the columns dataset and alpha.
        columns: panels side by side.
        width, height: of a panel, in inches.
        empty: what to write where there is nothing to draw.
        dpi: on the screen only; less keeps notebooks small, so of many panels it is less unless
            given.

    Returns:
        The figure, and each panel's axes with its rows of the frame.
    """
    groups = list(frame.groupby(["dataset", "alpha"], sort=False))
    columns = max(1, min(columns, len(groups)))
    rows = max(1, -(-len(groups) // columns))
    if dpi is None and len(groups) > FEW_PANELS:
        dpi = 72
    figure, axes = plt.subplots(
        rows, columns, figsize=(width * columns, height * rows), squeeze=False,
        layout="constrained", dpi=dpi,
    )  # fmt: skip
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    if not groups:
        axes[0, 0].text(0, 0.5, empty)
    panels = []
    for axis, ((dataset, alpha), rows_of) in zip(axes.flat, groups, strict=False):
        axis.set_title(f"{dataset}, α = {alpha}", loc="left")
        panels.append((axis, rows_of))
    return figure, panels


def method_style(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line style of each method; depends on its place in the registry, not on the figure."""
    colors, dashes = cycle(OTHERS), cycle(DASHES)
    styles: dict[str, dict[str, Any]] = {}
    for name in [*METHODS, *(m for m in methods if m not in METHODS)]:
        if name == "fedobp":
            styles[name] = {"color": HIGHLIGHT, "lw": 2.4, "ls": "-", "zorder": 5}
        else:
            styles[name] = {"color": next(colors), "lw": 1.2, "ls": next(dashes), "zorder": 3}
    return {name: styles[name] for name in methods}


def layer_styles(layers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Line style of each layer; the classifier, of which the paper speaks, is thick and orange."""
    colors, dashes = cycle(OTHERS), cycle(DASHES[1:])
    styles: dict[str, dict[str, Any]] = {}
    for layer in layers:
        if layer == "classifier":
            styles[layer] = {"color": HIGHLIGHT, "lw": 2.4, "ls": "-", "zorder": 5}
        else:
            styles[layer] = {"color": next(colors), "lw": 1.3, "ls": next(dashes), "zorder": 3}
    return styles


def label_ends(axis: Axes, x: float, ends: list[tuple[float, str, dict[str, Any]]]) -> None:
    """Names at the ends of the lines, moved apart where they would overlap."""
    low, high = axis.get_ylim()
    gap = (high - low) * 0.062
    ends = sorted(ends, key=lambda end: end[0])
    places = np.array([end[0] for end in ends])
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    over = places[-1] - high
    if over > 0:
        places[-1] = high
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - gap)
    span = axis.get_xlim()[1] - axis.get_xlim()[0]
    for place, (value, title, style) in zip(places, ends, strict=True):
        axis.annotate(
            title,
            xy=(x, value),
            xytext=(x + 0.05 * span, place),
            va="center",
            fontsize=8,
            color=style["color"],
            fontweight="bold" if style["lw"] > 2 else "normal",
            annotation_clip=False,
            # The line ends where the text begins.
            arrowprops={
                "arrowstyle": "-",
                "color": style["color"],
                "lw": 0.6,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def whole_numbers(axis: Axes, label: str) -> None:
    axis.set_xlabel(label)
    few = axis.get_xlim()[1] > 100  # long numbers
    axis.xaxis.set_major_locator(MaxNLocator(6 if few else "auto", integer=True))


def add_seeds(axis: Axes, panel: pd.DataFrame) -> None:
    """Behind a panel's title, of how many seeds its lines and bands are."""
    seeds = seeds_text(int(panel["seeds"].max()))
    axis.set_title(f"{axis.get_title(loc='left')}   ({seeds})", loc="left")


def seeds_text(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds, band ± 1 std"
