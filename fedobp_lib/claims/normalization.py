"""Claims about Table 8 and Figures 11 and 12: scores scaled in four ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .accuracy import Means
from .finding import POINT, UNKNOWN, Finding


def _panels(means: Means) -> list[tuple[str, float]]:
    return list(dict.fromkeys((dataset, alpha) for dataset, alpha, _ in means))


def layer_norm_below(means: Means) -> Finding:
    """LayerNorm is below NoNorm and GlobalNorm wherever all three were run."""
    parts = []
    for dataset, alpha in _panels(means):
        found = {n: means.get((dataset, alpha, n)) for n in ("none", "layer", "global")}
        if None in found.values():
            continue
        told = f"{dataset}: LayerNorm {found['layer']:.2f}, NoNorm {found['none']:.2f}, "
        told += f"GlobalNorm {found['global']:.2f}"
        parts.append(Finding(told, found["layer"] < min(found["none"], found["global"])))
    return Finding.all_of(parts)


def global_like_none(means: Means) -> Finding:
    """GlobalNorm is within a point of NoNorm wherever both were run."""
    parts = []
    for dataset, alpha in _panels(means):
        none, same = (means.get((dataset, alpha, n)) for n in ("none", "global"))
        if none is not None and same is not None:
            told = f"{dataset}: GlobalNorm {round(same - none, 2):+.2f} to NoNorm"
            parts.append(Finding(told, abs(same - none) <= POINT))
    return Finding.all_of(parts)


def best_normalization(means: Means, expected: Mapping[str, str]) -> Finding:
    """The normalization expected of each data set is best there, or level with the best."""
    parts = []
    for dataset, name in expected.items():
        found = {n: v for (d, a, n), v in means.items() if d == dataset and a == 0.1}
        if len(found) < 4:
            parts.append(UNKNOWN)
            continue
        best = [n for n, value in found.items() if value == max(found.values())]
        parts.append(Finding(f"{dataset}: best {', '.join(best)}", name in best))
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
