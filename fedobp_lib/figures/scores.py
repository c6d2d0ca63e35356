"""Accuracy against quantile: which score finds the parameters that matter (Figures 4, 8, 9)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results.quantiles import score_peaks
from .style import HIGHLIGHT, seeds_text, styled

SCORE_STYLES: dict[str, dict[str, Any]] = {
    "gradient": {"color": "#0072B2", "lw": 1.3, "ls": "--", "marker": "s", "zorder": 3},
    "fisher": {"color": "#009E73", "lw": 1.3, "ls": "-.", "marker": "^", "zorder": 4},
    "obp": {"color": HIGHLIGHT, "lw": 2.4, "ls": "-", "marker": "o", "zorder": 5},
}
SCORE_TITLES = {"gradient": "gradient", "fisher": "Fisher", "obp": "FedOBP"}

# The enlarged part begins at 0.99; its axis is the number of nines, -log10(1 - q).
ENLARGED_FROM = 0.99


def plot_quantile_curves(frame: pd.DataFrame) -> Figure:
    """A row a data set and alpha: all quantiles at the left, those from 0.99 on at the right.

    A ring marks the best quantile of each score; a dotted line is q = 1, which keeps nothing
    personal and so is FedAvg.

    Args:
        frame: as `quantile_frame` gives it.
    """
    panels = list(frame.groupby(["dataset", "alpha"], sort=False))
    with styled():
        figure = plt.figure(figsize=(8.4, 3.1 * len(panels)), layout="constrained")
        blocks = figure.subfigures(len(panels), 1, squeeze=False)
        for block, ((dataset, alpha), panel) in zip(blocks.flat, panels, strict=True):
            whole, enlarged = block.subplots(1, 2, sharey=True)
            peaks = score_peaks(panel).set_index("score")
            for score, line in panel.groupby("score", sort=False):
                line = line.sort_values("quantile")
                _curve(whole, line, line["quantile"], peaks.loc[score])
                close = line[line["quantile"] >= ENLARGED_FROM]
                _curve(enlarged, close, nines(close["quantile"], panel), peaks.loc[score])
            for axis in (whole, enlarged):
                for value in panel.loc[panel["quantile"] == 1, "mean"].head(1):
                    axis.axhline(value, color="black", ls=":", lw=1, label="q = 1: FedAvg")
            seeds = seeds_text(int(panel["seeds"].max()))
            whole.set_title(f"{dataset}, α = {alpha}   ({seeds})", loc="left")
            tested = {"best": "best evaluated round", "last": "last round"}[panel["which"].iloc[0]]
            whole.set(xlabel="quantile q")
            whole.set_ylabel(f"accuracy of all clients, %\npooled, before training,\n{tested}")
            enlarged.set_title("enlarged: q from 0.99 to 1", loc="left")
            _label_nines(enlarged, panel)
            handles, labels = whole.get_legend_handles_labels()
            entries = dict(zip(labels, handles, strict=True))
            block.legend(
                entries.values(), entries.keys(), loc="outside lower center", ncols=4, fontsize=8
            )
        plt.close(figure)
    return figure


def nines(quantiles: pd.Series, panel: pd.DataFrame) -> np.ndarray:
    """Places on the enlarged axis: the number of nines; q = 1 one step behind the last q < 1."""
    inside = panel["quantile"][panel["quantile"] < 1]
    end = np.ceil(max(3.0, -np.log10(1 - inside.max() + 1e-12) if len(inside) else 0.0)) + 0.6
    values = quantiles.to_numpy(float)
    places = np.full(len(values), end)
    places[values < 1] = -np.log10(1 - values[values < 1])
    return places


def _curve(
    axis: Axes, line: pd.DataFrame, places: Sequence[float] | np.ndarray, peak: pd.Series
) -> None:
    style = dict(SCORE_STYLES[peak.name])
    marker, color = style.pop("marker"), style["color"]
    x, mean = np.asarray(places), line["mean"].to_numpy()
    spread = line["std"].fillna(0).to_numpy()
    joined = slice(None)
    if len(x) and x[-1] > 1 and line["quantile"].iloc[-1] == 1:
        joined = slice(0, -1)  # on the enlarged axis, q = 1 lies behind a gap
    axis.plot(x[joined], mean[joined], solid_capstyle="round", **style)
    axis.plot(x, mean, ls="none", marker=marker, ms=3.2, color=color, zorder=style["zorder"])
    axis.fill_between(
        x[joined], (mean - spread)[joined], (mean + spread)[joined],
        color=color, alpha=0.13, lw=0,
    )  # fmt: skip
    ring = line["quantile"].to_numpy() == peak["quantile"]
    axis.plot(
        x[ring], mean[ring], ls="none", marker="o", ms=10, mfc="none", mec=color, mew=1.6,
        zorder=6,
    )  # fmt: skip
    label = (
        f"{SCORE_TITLES[peak.name]}: best at q = {peak['quantile']:g},\n"
        f"{peak['personal']:,.0f} personal parameters"
    )
    axis.plot([], [], marker=marker, ms=4, label=label, **style)


def _label_nines(axis: Axes, panel: pd.DataFrame) -> None:
    end = nines(pd.Series([1.0]), panel)[0]
    whole = np.arange(2, np.floor(end) + 1)
    labels = [f"0.{'9' * int(count)}" for count in whole]
    axis.set_xticks([*whole, end], [*labels, "1"])
    axis.set_xlim(1.9, end + 0.15)
    axis.set_xlabel("quantile q (each 9 a step)")
    # The two strokes of a broken axis.
    gap = (whole[-1] + end) / 2
    for place in (gap - 0.03, gap + 0.03):
        axis.plot(
            [place - 0.03, place + 0.03], [-0.025, 0.025], color="black", lw=0.8, clip_on=False,
            transform=axis.get_xaxis_transform(),
        )  # fmt: skip
