"""Claims about Table 8 and Figures 11 and 12: scores scaled in four ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...runs.normalizations import NORMALIZATION_TITLES, normalization_of
from ...runs.store import RunResult
from ..layers import variant_layers
from .accuracy import Means
from .finding import POINT, UNKNOWN, Finding

GLOBAL = ("global", "global_classifier_only")


def _panels(means: Means) -> list[tuple[str, float]]:
    return list(dict.fromkeys((dataset, alpha) for dataset, alpha, _ in means))


def _of(means: Means, dataset: str, alpha: float, names: Sequence[str]) -> dict[str, float]:
    """Accuracies of some normalizations, where they were run."""
    return {n: means[dataset, alpha, n] for n in names if (dataset, alpha, n) in means}


def layer_norm_below(means: Means) -> Finding:
    """LayerNorm is below NoNorm and GlobalNorm wherever all three were run."""
    parts = []
    for dataset, alpha in _panels(means):
        found = _of(means, dataset, alpha, ("none", "layer", "global"))
        if len(found) < 3:
            continue
        told = f"{dataset}: LayerNorm {found['layer']:.2f}, NoNorm {found['none']:.2f}, "
        told += f"GlobalNorm {found['global']:.2f}"
        parts.append(Finding(told, found["layer"] < min(found["none"], found["global"])))
    return Finding.all_of(parts)


def global_like_none(means: Means) -> Finding:
    """Both kinds of GlobalNorm are within a point of NoNorm wherever they were run."""
    parts = []
    for dataset, alpha in _panels(means):
        found = _of(means, dataset, alpha, ("none", *GLOBAL))
        if len(found) < 3:
            continue
        changes = [round(found[name] - found["none"], 2) + 0 for name in GLOBAL]
        told = ", ".join(
            f"{NORMALIZATION_TITLES[name]} {change:+.2f}"
            for name, change in zip(GLOBAL, changes, strict=True)
        )
        right = all(abs(change) <= POINT for change in changes)
        parts.append(Finding(f"{dataset}: {told} to NoNorm", right))
    return Finding.all_of(parts)


def best_normalization(means: Means, expected: Mapping[str, str]) -> Finding:
    """The normalization expected of each data set is best there, or level with the best."""
    parts = []
    for dataset, name in expected.items():
        found = {n: v for (d, a, n), v in means.items() if d == dataset and a == 0.1}
        if len(found) < 4:
            parts.append(UNKNOWN)
            continue
        # At the two decimals that the paper prints, so that rounding decides nothing.
        found = {n: round(value, 2) for n, value in found.items()}
        best = [n for n, value in found.items() if value == max(found.values())]
        told = ", ".join(NORMALIZATION_TITLES[n] for n in best)
        parts.append(Finding(f"{dataset}: best {told}", name in best))
    return Finding.all_of(parts)


def picked(results: Sequence[RunResult]) -> pd.DataFrame:
    """What each normalization keeps of each layer; see `layers.variant_layers`."""
    ours = [result for result in results if result.config.method == "fedobp"]
    return variant_layers(ours, normalization_of) if ours else pd.DataFrame()


def layers_picked(frame: pd.DataFrame) -> Finding:
    """LayerNorm keeps something of every layer, the others mostly of the classifier."""
    parts = []
    for (dataset, alpha), panel in frame.groupby(["dataset", "alpha"]) if len(frame) else ():
        kept = {name: rows.set_index("layer") for name, rows in panel.groupby("variant")}
        if not {"layer", "none", "global"} <= set(kept):
            continue
        least = kept["layer"]["personal"].min()
        shares = {n: kept[n]["share"].get("classifier", 0.0) for n in ("none", "global")}
        told = f"{dataset} {alpha:g}: LayerNorm {least:.1f} of the layer it keeps least of; " + (
            ", ".join(f"{NORMALIZATION_TITLES[n]} {s:.0f} % classifier" for n, s in shares.items())
        )
        parts.append(Finding(told, bool(least >= 1 and min(shares.values()) > 50)))
    return Finding.all_of(parts)


def classifier_only(means: Means, like: Sequence[str], worse: Sequence[str]) -> Finding:
    """With the classifier alone: within a point on some data sets, below on others."""
    parts = []
    for dataset in (*like, *worse):
        every = means.get((dataset, 0.1, "global"))
        only = means.get((dataset, 0.1, "global_classifier_only"))
        if every is None or only is None:
            parts.append(UNKNOWN)
            continue
        change = round(only - every, 2)
        right = abs(change) <= POINT if dataset in like else change < 0
        parts.append(Finding(f"{dataset}: {change:+.2f} with CLS", right))
    return Finding.all_of(parts)
