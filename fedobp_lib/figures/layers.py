"""In which layers the personalized parameters lie (Figures 5, 10; for Figures 11, 12 too)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..config import RunConfig
from ..runs import RunResult
from .style import (
    STYLE,
    add_seeds,
    label_ends,
    layer_styles,
    panel_grid,
    title_of,
    whole_numbers,
)

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oooo")
NOTHING = "Nothing is personalized in these few rounds."
STABLE_FROM = 300  # after this round the paper calls the distribution stable


def layer_frame(results: Sequence[RunResult]) -> pd.DataFrame:
    """Share of the personalized parameters that lies in each layer, round by round.

    Rounds in which a run personalizes nothing (before clients return) are left out.

    Returns:
        Columns: dataset, alpha, round, layer, parameters (of the layer), mean, low, high (in
        percent; the mean over seeds, and it minus and plus a standard deviation), seeds.
    """
    keys = ["dataset", "alpha", "round", "layer", "parameters"]
    tidy = _tidy(results)
    frame = tidy.groupby(keys, sort=False)["share"].agg(["mean", "std", "count"]).reset_index()
    spread = frame["std"].fillna(0)
    frame["low"], frame["high"] = frame["mean"] - spread, frame["mean"] + spread
    return frame.rename(columns={"count": "seeds"})[[*keys, "mean", "low", "high", "seeds"]]


def layer_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean share of each layer once it is stable.

    Args:
        frame: as `layer_frame` gives it.

    Returns:
        Columns: dataset, alpha, layer, after_round (300, or three quarters of the rounds where
        there are not more), share_of_personalized, share_of_parameters (both in percent).
    """
    rows = []
    for (dataset, alpha), panel in frame.groupby(["dataset", "alpha"], sort=False):
        last = panel["round"].max()
        after = STABLE_FROM if last > STABLE_FROM else 3 * last // 4
        late = panel[panel["round"] > after].groupby("layer", sort=False)
        sizes = late["parameters"].first()
        for layer, share in late["mean"].mean().items():
            rows.append([dataset, alpha, layer, after, share, 100 * sizes[layer] / sizes.sum()])
    columns = ["dataset", "alpha", "layer", "after_round"]
    return pd.DataFrame(rows, columns=[*columns, "share_of_personalized", "share_of_parameters"])


def variant_layers(
    results: Sequence[RunResult], variant: Callable[[RunConfig], str]
) -> pd.DataFrame:
    """Share of each layer in the last round, variant by variant.

    The last round is a run's last one in which anything is personalized.

    Args:
        results: finished runs.
        variant: names the variant of a run.

    Returns:
        Columns: dataset, alpha, variant, layer, share (percent, mean over seeds), std (NaN for
        a single seed), personal (mean number of personalized parameters in the layer), seeds.
    """
    tidy = _tidy(results, variant)
    last = tidy[tidy["round"] == tidy.groupby("run")["round"].transform("max")]
    keys = ["dataset", "alpha", "variant", "layer"]
    frame = last.groupby(keys, sort=False).agg(
        share=("share", "mean"),
        std=("share", "std"),
        personal=("personalized", "mean"),
        seeds=("share", "count"),
    )
    return frame.reset_index()


def _tidy(
    results: Sequence[RunResult], variant: Callable[[RunConfig], str] | None = None
) -> pd.DataFrame:
    """Every run's layers with their share of the round's personalized parameters, in percent."""
    parts = []
    for result in results:
        config, layers = result.config, result.layers
        total = layers.groupby("round")["personalized"].transform("sum")
        layers = layers.assign(share=100 * layers["personalized"] / total)[total > 0]
        name = variant(config) if variant else ""
        parts.append(
            layers.assign(
                dataset=config.dataset, alpha=config.alpha, variant=name, run=result.run_id
            )
        )
    return pd.concat(parts, ignore_index=True)


def plot_layers(frame: pd.DataFrame, columns: int = 2) -> Figure:
    """Shares of the layers over rounds, one panel a data set and alpha.

    Args:
        frame: as `layer_frame` gives it.
        columns: panels side by side.
    """
    styles = layer_styles(frame["layer"].unique())
    with plt.rc_context(STYLE):
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
    with plt.rc_context(STYLE | {"hatch.linewidth": 0.5, "axes.grid": False}):
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
