"""Claims about Figures 4, 8 and 9: three scores over the quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from ...runs.store import RunResult
from ..quantiles import quantile_frame
from .finding import UNKNOWN, Finding

SCORES = {"gradient": "I_G", "fisher": "I_F", "obp": "I_O"}

# (data set, alpha) -> score -> accuracy by quantile
ScoreCurves = Mapping[tuple[str, float], Mapping[str, pd.Series]]


def score_curves(results: Sequence[RunResult]) -> ScoreCurves:
    """FedOBP's accuracy by quantile, where more than two were run; see `quantile_frame`."""
    ours = [result for result in results if result.config.method == "fedobp"]
    curves: dict[tuple[str, float], dict[str, pd.Series]] = {}
    frame = quantile_frame(ours).sort_values(["dataset", "alpha", "score", "quantile"])
    for (dataset, alpha, score), group in frame.groupby(["dataset", "alpha", "score"]):
        if len(group) > 2:
            curve = group.set_index("quantile")["mean"]
            curves.setdefault((dataset, alpha), {})[score] = curve
    return curves


def rise_and_decline(curves: ScoreCurves) -> Finding:
    """Each score is best somewhere between the smallest and the largest quantile."""
    parts = []
    for (dataset, alpha), scores in curves.items():
        for score in (s for s in SCORES if s in scores):
            curve = scores[score]
            first, last, peak = curve.iloc[0], curve.iloc[-1], curve.max()
            best = curve.index[curve == peak].max()  # of equals the one that keeps fewest
            told = (
                f"{dataset} {alpha:g} {SCORES[score]}: {first:.2f} at q={curve.index[0]:g}, "
                f"{peak:.2f} at {best:g}, {last:.2f} at {curve.index[-1]:g}"
            )
            parts.append(Finding(told, peak > max(first, last)))
        parts += [UNKNOWN] * (len(SCORES) - len(scores))
    return Finding.all_of(parts)


def peak(
    curves: ScoreCurves,
    dataset: str,
    score: str,
    quantile: float | None = None,
    above: float | None = None,
) -> Finding:
    """The best accuracy is at a quantile, or above one; equal bests all count."""
    curve = curves.get((dataset, 0.1), {}).get(score)
    if curve is None:
        return UNKNOWN
    best = curve.index[curve == curve.max()]
    told = f"{SCORES[score]} peaks at q={', '.join(f'{q:g}' for q in best)} ({curve.max():.2f})"
    if above is not None:
        return Finding(told, bool((best > above).any()))
    if quantile not in curve.index:
        return Finding(f"{told}; q={quantile:g} was not run")
    return Finding(f"{told}; {curve[quantile]:.2f} at q={quantile:g}", quantile in best)


def stable(curves: ScoreCurves, datasets: Sequence[str]) -> Finding:
    """Over the quantiles, FedOBP's score has the smallest range of the three."""
    parts = []
    for dataset in datasets:
        scores = curves.get((dataset, 0.1), {})
        if set(scores) != set(SCORES):
            parts.append(UNKNOWN)
            continue
        spread = {score: curve.max() - curve.min() for score, curve in scores.items()}
        told = ", ".join(f"{SCORES[score]} {width:.2f}" for score, width in spread.items())
        smallest = spread["obp"] <= min(spread["gradient"], spread["fisher"])
        parts.append(Finding(f"{dataset}: highest less lowest {told}", smallest))
    return Finding.all_of(parts)
