"""Claims about Figures 2, 3, 6 and 7: smoothed accuracies of the cohort over rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from ...runs.store import RunResult
from ..convergence import convergence_frame, rounds_to_reach
from ..titles import title_of
from .accuracy import RIVALS, Means, on_cells
from .finding import POINT, UNKNOWN, Finding

SHARE_REACHED = 0.95  # of FedOBP's best accuracy


def curves(results: Sequence[RunResult]) -> pd.DataFrame:
    """The smoothed mean curves of Figures 2, 3, 6 and 7; see `convergence.convergence_frame`."""
    if not results:
        return pd.DataFrame(columns=["dataset", "alpha", "method", "round", "mean"])
    return convergence_frame(results)


def _ends(frame: pd.DataFrame) -> Means:
    return frame.groupby(["dataset", "alpha", "method"])["mean"].last().to_dict()


def on_curves(
    check: Callable[..., Finding], alpha: float, datasets: Sequence[str], **given: Any
) -> Callable[[pd.DataFrame], Finding]:
    """A check of accuracies, on the ends of the curves."""
    checked = on_cells(check, [(dataset, alpha) for dataset in datasets], **given)
    return lambda frame: checked(_ends(frame))


def fastest(frame: pd.DataFrame, dataset: str, alpha: float) -> Finding:
    """No rival reaches 95 % of FedOBP's best value in fewer rounds."""
    panel = frame[(frame["dataset"] == dataset) & (frame["alpha"] == alpha)]
    reached = rounds_to_reach(panel, SHARE_REACHED)
    reached = reached.set_index("method")["round"].dropna().astype(int)
    if "fedobp" not in reached:
        return UNKNOWN
    run = set(panel["method"]) & set(RIVALS)
    rivals = reached[reached.index.isin(RIVALS)]
    told = f"{dataset} {alpha:g}: FedOBP in round {reached['fedobp']}"
    if len(rivals):
        told += f", {title_of(rivals.idxmin())} in {rivals.min()}"
        if rivals.min() < reached["fedobp"]:
            return Finding(told, False)
    return Finding(told, True if len(run) == len(RIVALS) else None)


def ends_between(
    frame: pd.DataFrame,
    dataset: str,
    alpha: float,
    bounds: Mapping[str, tuple[float, float]],
) -> Finding:
    """Methods whose curves end between two accuracies."""
    ends, parts = _ends(frame), []
    for method, (low, high) in bounds.items():
        value = ends.get((dataset, alpha, method))
        if value is None:
            parts.append(UNKNOWN)
        else:
            parts.append(Finding(f"{title_of(method)} {value:.2f}", low < value < high))
    return Finding.all_of(parts)


def peak_round(frame: pd.DataFrame, dataset: str, alpha: float, about: int) -> Finding:
    """FedOBP's curve first comes within a point of its best value 50 rounds around a round."""
    ours = (frame["dataset"] == dataset) & (frame["alpha"] == alpha) & (frame["method"] == "fedobp")
    curve = frame[ours]
    if curve.empty:
        return UNKNOWN
    if curve["round"].max() < about + 50:
        return Finding(f"{dataset}: no run goes beyond round {about + 50}")
    first = int(curve.loc[curve["mean"] >= curve["mean"].max() - POINT, "round"].iloc[0])
    return Finding(f"{dataset}: round {first}", abs(first - about) <= 50)
