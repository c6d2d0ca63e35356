"""In which layers the personalized parameters lie (Figures 5, 10; for Figures 11, 12 too)."""

from __future__ import annotations

from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..results.titles import title_of
from .style import add_seeds, label_ends, layer_styles, panel_grid, styled, whole_numbers

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oooo")
NOTHING = "Nothing is personalized in these few rounds."


def plot_layers(frame: pd.DataFrame, columns: int = 2) -> Figure:
    """Shares of the layers over rounds, one panel a data set and alpha.

    Args:
        frame: as `layer_frame` gives it.
        columns: panels side by side.
    """
    styles = layer_styles(frame["layer"].unique())
    with styled():
        figure, panels = panel_grid(frame, columns, 4.6, 3.0, NOTHING)
        for axis, panel in panels:
            ends = []
            for layer, line in panel.groupby("layer", sort=False):
                style = styles[layer]
                axis.plot(line["round"], line["mean"], **style)
                axis.fill_between(
                    line["round"], line["low"], line["high"], color=style["color"], alpha=0.13, lw=0
                )
                ends.append((line["mean"].iloc[-1], layer, style))
            axis.set_ylim(-3, 103)
            axis.set_xlim(1, max(2, panel["round"].max()))
            label_ends(axis, panel["round"].max(), ends)
            add_seeds(axis, panel)
            axis.set_ylabel("share of personal parameters, %")
            whole_numbers(axis, "round")
        plt.close(figure)
    return figure


def plot_variant_layers(frame: pd.DataFrame, columns: int = 2) -> Figure:
    """A bar a variant, divided into layers, with the number of personalized parameters.

    Args:
        frame: as `variant_layers` gives it.
        columns: panels side by side.
    """
    styles = layer_styles(frame["layer"].unique())
    with styled(hatch_linewidth=0.5, axes_grid=False):
        figure, panels = panel_grid(frame, columns, 5.0, 2.3, NOTHING)
        for axis, panel in panels:
            variants = list(panel["variant"].unique())[::-1]
            counts = panel.groupby("variant")["personal"].sum()
            left = np.zeros(len(variants))
            for (layer, part), hatch in zip(
                panel.groupby("layer", sort=False), cycle(HATCHES), strict=False
            ):
                shares = part.set_index("variant")["share"].reindex(variants, fill_value=0)
                axis.barh(
                    list(map(title_of, variants)), shares, left=left, height=0.66,
                    label=layer, hatch=hatch, color=styles[layer]["color"],
                    edgecolor="white", lw=0.5,
                )  # fmt: skip
                left += shares.to_numpy()
            for place, variant in enumerate(variants):
                axis.text(102, place, f"{counts[variant]:,.0f}", va="center", fontsize=8)
            axis.text(102, len(variants) - 0.45, "number", va="bottom", fontsize=8)
            axis.set_xlim(0, 100)
            axis.set_xlabel("share of personal parameters, %")
        for axis, _ in panels[:1]:
            handles, labels = axis.get_legend_handles_labels()
            figure.legend(
                handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8
            )
        plt.close(figure)
    return figure
