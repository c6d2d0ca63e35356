"""Every plot. A figure is drawn from a tidy frame that is saved as CSV beside it.

FedOBP is the one thick, dark orange line. Other methods share a few muted, colour-blind-safe
colours and are told apart by line style and by a label at the end of the line, so that the
figures also work in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.signal import savgol_filter

from . import paths
from .methods import METHODS
from .partition import Partition
from .runs import RunResult

HIGHLIGHT = "#D55E00"
OTHERS = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#666666", "#B8860B")
MANY = 7  # more lines in one panel cannot be told apart
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
STYLE = {
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


def save(figure: Figure, frame: pd.DataFrame, name: str, preset: str) -> Path:
    """Write NAME.pdf, NAME.png and NAME.csv into `figures/PRESET/`; returns that folder."""
    folder = paths.figures_dir(preset)
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        figure.savefig(folder / f"{name}.pdf", bbox_inches="tight", metadata={"CreationDate": None})
        figure.savefig(folder / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
    save_table(frame, name, preset)
    return folder


def save_table(frame: pd.DataFrame, name: str, preset: str) -> Path:
    """Write NAME.csv into `figures/PRESET/`; returns the file."""
    folder = paths.figures_dir(preset)
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    return folder / f"{name}.csv"


def method_style(methods: Sequence[str]) -> dict[str, dict[str, object]]:
    """Line style of each method; depends on its place in the registry, not on the figure."""
    colors, dashes = cycle(OTHERS), cycle(DASHES)
    styles = {}
    for name in [*METHODS, *(m for m in methods if m not in METHODS)]:
        if name == "fedobp":
            styles[name] = {"color": HIGHLIGHT, "lw": 2.4, "ls": "-", "zorder": 5}
        else:
            styles[name] = {"color": next(colors), "lw": 1.2, "ls": next(dashes), "zorder": 3}
    return {name: styles[name] for name in methods}


def convergence_frame(
    results: Sequence[RunResult],
    stage: str = "before",
    scope: str = "cohort",
    average: str = "pooled",
) -> pd.DataFrame:
    """Accuracy over rounds: dataset, alpha, method, round, mean, low, high, seeds.

    The paper's curves show the clients of each round before their local training, smoothed by
    a Savitzky-Golay filter (here: cubic, over a tenth of the rounds, each run by itself).
    `low` and `high` are the mean minus and plus a standard deviation over seeds.
    """
    rows = []
    for result in results:
        history = result.history.query(
            "stage == @stage and scope == @scope and average == @average"
        )
        config = result.config
        rows.append(
            pd.DataFrame(
                {
                    "dataset": config.dataset,
                    "alpha": config.alpha,
                    "method": config.method,
                    "round": history["round"],
                    "accuracy": smooth(history["accuracy"].to_numpy()),
                }
            )
        )
    tidy = pd.concat(rows)
    frame = (
        tidy.groupby(["dataset", "alpha", "method", "round"], sort=False)["accuracy"]
        .agg(["mean", "std", "count"])
        .reset_index()
    )
    spread = frame["std"].fillna(0)
    frame["low"], frame["high"] = frame["mean"] - spread, frame["mean"] + spread
    return frame.rename(columns={"count": "seeds"}).drop(columns="std")


def rounds_to_reach(frame: pd.DataFrame, share: float) -> pd.DataFrame:
    """First round in which a method's mean curve reaches a share of FedOBP's best value.

    Args:
        frame: as `convergence_frame` gives it.
        share: of FedOBP's best mean accuracy on the same data set and alpha.

    Returns:
        Columns: dataset, alpha, method, target (percent), round (NaN: never); empty where
        FedOBP was not run.
    """
    rows = []
    for (dataset, alpha), panel in frame.groupby(["dataset", "alpha"], sort=False):
        ours = panel.loc[panel["method"] == "fedobp", "mean"]
        for method, line in panel.groupby("method", sort=False):
            reached = line.loc[line["mean"] >= share * ours.max(), "round"]
            first = float(reached.iloc[0]) if len(reached) else np.nan
            rows.append([dataset, alpha, method, share * ours.max(), first])
    columns = ["dataset", "alpha", "method", "target", "round"]
    return pd.DataFrame(rows, columns=columns).dropna(subset="target").astype({"round": "Int64"})


def smooth(values: np.ndarray) -> np.ndarray:
    """Savitzky-Golay filter, cubic, over a tenth of the values but at least nine."""
    window = max(9, len(values) // 10) | 1
    if len(values) < window:
        return values
    return np.clip(savgol_filter(values, window, 3), 0, 100)


def plot_convergence(frame: pd.DataFrame, columns: int = 2) -> Figure:
    """Accuracy over rounds, with bands.

    Few methods: one panel a data set and alpha, lines labelled at their ends. More than
    `MANY` methods: one small panel a method.
    """
    panels = list(frame.groupby(["dataset", "alpha"], sort=False))
    if frame["method"].nunique() > MANY:
        return _small_multiples(panels)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(4.6 * columns, 3.3 * rows), squeeze=False, layout="constrained"
        )
        for axis, ((dataset, alpha), panel) in zip(axes.flat, panels, strict=False):
            _curves(axis, panel)
            seeds = int(panel["seeds"].max())
            axis.set_title(f"{dataset}, α = {alpha}   ({_seeds(seeds)})", loc="left")
            _whole_numbers(axis, "round")
            axis.set_ylabel("accuracy of the cohort, %")
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        plt.close(figure)
    return figure


def _small_multiples(panels: list[tuple[tuple[str, float], pd.DataFrame]]) -> Figure:
    """A block a data set and alpha: each method alone against FedOBP, all others pale behind."""
    columns = 4
    heights = [-(-panel["method"].nunique() // columns) for _, panel in panels]
    with plt.rc_context(STYLE):
        figure = plt.figure(
            figsize=(8.4, 1.5 * sum(heights) + 0.6 * len(panels)),
            layout="constrained",
            dpi=72,  # on the screen only; keeps notebooks small
        )
        blocks = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)
        for block, rows, ((dataset, alpha), panel) in zip(
            blocks.flat, heights, panels, strict=True
        ):
            seeds = _seeds(int(panel["seeds"].max()))
            block.suptitle(
                f"{dataset}, α = {alpha}   ({seeds}; percent over rounds)",
                x=0.01, ha="left", fontsize=10,
            )  # fmt: skip
            axes = block.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
            _method_panels(axes, panel)
        plt.close(figure)
    return figure


def _method_panels(axes: np.ndarray, panel: pd.DataFrame) -> None:
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
        axis.set_title(
            f"{_title(method)}  {best[method]:.1f}",
            loc="left", pad=3, fontsize=8.5, color=color if own else "black",
            fontweight="bold" if own else "normal",
        )  # fmt: skip
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.tick_params(labelsize=7.5)
    # Pale lines far below would squeeze what matters; a tenth of the values may be cut off.
    floor = max(0, np.floor(panel["mean"].quantile(0.05) - 5))
    axes.flat[0].set_ylim(floor, min(101, panel["high"].max() + 2))
    for axis in axes.flat[len(order) :]:
        axis.axis("off")
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy, %", fontsize=8)


def _curves(axis: Axes, panel: pd.DataFrame) -> None:
    styles = method_style(list(panel["method"].unique()))
    ends = []
    for method, line in panel.groupby("method", sort=False):
        style = styles[method]
        axis.plot(line["round"], line["mean"], solid_capstyle="round", **style)
        axis.fill_between(
            line["round"], line["low"], line["high"], color=style["color"], alpha=0.13, lw=0
        )
        ends.append((line["mean"].iloc[-1], _title(method), style))
    last = panel["round"].max()
    axis.set_xlim(panel["round"].min(), last)
    low, high = panel["low"].min(), panel["high"].max()
    axis.set_ylim(max(0, low - 3), min(101, high + 3))
    _end_labels(axis, last, ends)


def _end_labels(axis: Axes, x: float, ends: list[tuple[float, str, dict[str, object]]]) -> None:
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


def plot_accuracy(table: pd.DataFrame, published: bool = True) -> Figure:
    """Dots with standard deviations, one panel a data set and alpha, best method on top.

    Args:
        table: as `tables.accuracy_table` gives it.
        published: mark the published value with a cross where there is one.
    """
    panels = list(table.groupby(["dataset", "alpha"], sort=False))
    rows = max(len(panel) for _, panel in panels)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, figsize=(4.6 * columns, (0.27 * rows + 0.9) * lines),
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for axis, ((dataset, alpha), panel) in zip(axes.flat, panels, strict=False):
            for y, row in enumerate(panel.itertuples()):
                ours = row.method == "fedobp"
                color = HIGHLIGHT if ours else "#444444"
                axis.errorbar(
                    row.mean, y, xerr=0 if np.isnan(row.std) else row.std, fmt="o", ms=5,
                    color=color, elinewidth=1.2,
                )  # fmt: skip
                if published and not np.isnan(row.published_mean):
                    axis.plot(row.published_mean, y, "x", color="#0072B2", ms=6)
            axis.set_yticks(range(len(panel)), panel["title"])
            for label in axis.get_yticklabels():
                if label.get_text() == METHODS["fedobp"].title:
                    label.set(color=HIGHLIGHT, fontweight="bold")
            axis.set_title(f"{dataset}, α = {alpha}", loc="left")
            axis.set_xlabel("accuracy, %")
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        plt.close(figure)
    return figure


def plot_partition(partition: Partition, labels: np.ndarray, title: str = "") -> Figure:
    """Which client has how much of which class: a bubble's area is its number of samples."""
    classes = int(labels.max()) + 1
    counts = partition.class_counts(labels, classes) + partition.class_counts(
        labels, classes, "test"
    )
    client, label = np.nonzero(counts)
    size = counts[client, label]
    with plt.rc_context(STYLE):
        width = min(9.0, 2.5 + 0.22 * partition.clients)
        figure, (top, axis) = plt.subplots(
            2, 1, figsize=(width, 1.6 + 0.2 * min(classes, 20)), sharex=True,
            height_ratios=[1, 3], layout="constrained",
        )  # fmt: skip
        axis.scatter(client, label, s=160 * size / counts.max(), color="#0072B2", alpha=0.75, lw=0)
        _whole_numbers(axis, "client")
        axis.set_ylabel("class")
        axis.set_yticks(range(0, classes, max(1, classes // 10)))
        axis.set_xlim(-1, partition.clients)
        axis.set_ylim(-0.8, classes - 0.2)
        top.bar(np.arange(partition.clients), counts.sum(1), color="#666666", width=0.8)
        top.set_ylabel("samples")
        top.set_title(title, loc="left")
        plt.close(figure)
    return figure


def plot_history(history: pd.DataFrame, title: str) -> Figure:
    """Accuracy over rounds of one run: the cohort before and after training, and all clients.

    Args:
        history: as a run keeps it.
        title: of the figure.
    """
    history = history[history["average"] == "pooled"]
    with plt.rc_context(STYLE):
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
        _whole_numbers(axis, "round")
        axis.set_ylabel("pooled accuracy, %")
        axis.set_title(title, loc="left")
        axis.legend(fontsize=8, loc="lower right")
        plt.close(figure)
    return figure


def plot_quantiles(curve: pd.DataFrame, chosen: float) -> Figure:
    """Accuracy against the number of personalized parameters.

    Args:
        curve: columns quantile, personal (a count), accuracy (percent).
        chosen: the quantile to mark.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
        places = np.arange(len(curve))
        axis.plot(places, curve["accuracy"], "o-", color="#0072B2", lw=1.2, ms=4)
        mark = curve["quantile"] == chosen
        axis.plot(places[mark], curve["accuracy"][mark], "o", color=HIGHLIGHT, ms=9)
        points = zip(curve["quantile"], curve["personal"], strict=True)
        labels = [f"{quantile:g}\n{count:,}" for quantile, count in points]
        axis.set_xticks(places, labels, fontsize=7.5)
        axis.set_xlabel("quantile, and personal parameters of the client")
        axis.set_ylabel("pooled accuracy, %")
        plt.close(figure)
    return figure


def score_histogram(scores: np.ndarray, tau: float, layers: dict[str, slice]) -> pd.DataFrame:
    """How one client's importance scores are distributed in each layer.

    Args:
        scores: (P,) importance of every parameter.
        tau: the threshold; parameters above it are personal.
        layers: columns of each layer.

    Returns:
        layer, low, high (of a bin; six a decade, down to a ten-billionth of the largest score),
        parameters (in the bin), layer_parameters, layer_personal.
    """
    top = np.log10(scores.max()) if scores.max() > 0 else 0.0
    edges = np.logspace(top - 10, top, 61)
    edges[-1] = max(edges[-1], scores.max())  # rounding must not lose the largest
    rows = []
    for name, columns in layers.items():
        values = scores[columns]
        counts, _ = np.histogram(values, edges)
        personal = int((values > tau).sum())
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            rows.append([name, low, high, count, len(values), personal])
    columns = ["layer", "low", "high", "parameters", "layer_parameters", "layer_personal"]
    return pd.DataFrame(rows, columns=columns)


def plot_scores(histogram: pd.DataFrame, tau: float) -> Figure:
    """One client's importance scores, layer by layer, with the threshold.

    Args:
        histogram: as `score_histogram` gives it.
        tau: the threshold.
    """
    layers = histogram.groupby("layer", sort=False)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
        for (name, bins), color, dash in zip(layers, cycle(OTHERS), cycle(DASHES), strict=False):
            size, kept = bins[["layer_parameters", "layer_personal"]].iloc[0]
            axis.stairs(
                bins["parameters"],
                [*bins["low"], bins["high"].iloc[-1]],
                color=color,
                ls=dash,
                lw=1.4,
                label=f"{name}:\n{kept:,} of {size:,} personal",
            )
        # Without a positive score there is nothing that a logarithmic axis could show.
        scale = "log" if histogram["parameters"].any() else "linear"
        axis.set(xscale="log", yscale=scale, ylabel="parameters")
        axis.set_xlabel("importance (local − global)²")
        axis.set_ylim(bottom=0.7)
        if tau > 0:
            axis.axvline(tau, color=HIGHLIGHT, lw=2)
            axis.text(
                tau,
                0.97,
                " threshold τ",
                color=HIGHLIGHT,
                fontweight="bold",
                va="top",
                ha="left",
                transform=axis.get_xaxis_transform(),
            )
        figure.legend(fontsize=8, loc="outside right center")
        plt.close(figure)
    return figure


def _whole_numbers(axis: Axes, label: str) -> None:
    axis.set_xlabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _title(method: str) -> str:
    return METHODS[method].title if method in METHODS else method


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds, band ± 1 std"
