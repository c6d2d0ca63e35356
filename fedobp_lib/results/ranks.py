"""Do methods differ, taken over all data sets and alphas? Ranks, tests, and pairs.

As Demšar proposes (Statistical comparisons of classifiers over multiple data sets, JMLR 2006):
methods are ranked in every cell (a data set and an alpha), the Friedman test asks whether the mean
ranks could be equal, and two methods differ if their mean ranks are further apart than Nemenyi's
critical difference. The two alphas of a data set share its images, so cells are not quite
independent, and the test is a little bolder than it says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, studentized_range

from ..methods import METHODS
from ..paper.published import published_accuracy
from ..runs.store import RunResult
from .compare import measured

LEVEL = 0.05
RESAMPLES = 10_000


def measured_scores(results: Sequence[RunResult]) -> pd.DataFrame:
    """Accuracies to be ranked: dataset, alpha, method, seed, accuracy (percent).

    As the published tables: before local training, pooled, best of the evaluated rounds. FedAvg
    after fine-tuning is left out, for it answers another question.
    """
    frame = measured(results)
    return frame[frame["method"] != "fedavg-fine-tuned"].drop(columns="run_id")


def published_scores() -> pd.DataFrame:
    """Tables 1 and 6 in the same form: one seed, the printed mean."""
    frame = published_accuracy().rename(columns={"accuracy_mean_percent": "accuracy"})
    return frame.assign(seed=0)[["dataset", "alpha", "method", "seed", "accuracy"]]


def mean_ranks(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean rank of every method over cells, with the Friedman test.

    The mean over seeds is ranked: 1 is the best, equals share their ranks. Only cells count in
    which every method was run.

    Args:
        scores: as `measured_scores` and `published_scores` give them.

    Returns:
        method, rank, best (cells in which it has rank 1, shared or not), cells, friedman
        (statistic), p_value, critical_difference (Nemenyi's, at `LEVEL`); best rank first.
        Empty with fewer than two complete cells or three methods: nothing can be said then.
    """
    table = _complete_cells(scores)
    columns = ["method", "rank", "best", "cells", "friedman", "p_value", "critical_difference"]
    cells, methods = table.shape
    if cells < 2 or methods < 3:
        return pd.DataFrame(columns=columns)
    ranks = table.rank(axis=1, ascending=False)
    # Where every method is equal in every cell the statistic is 0/0.
    with np.errstate(invalid="ignore"):
        statistic, p_value = friedmanchisquare(*(table[method] for method in table))
    frame = pd.DataFrame(
        {
            "method": table.columns,
            "rank": ranks.mean().to_numpy(),
            "best": (ranks.rank(axis=1, method="min") == 1).sum().to_numpy(),
            "cells": cells,
            "friedman": float(statistic),
            "p_value": float(p_value),
            "critical_difference": critical_difference(methods, cells),
        }
    )
    return frame.sort_values("rank", kind="stable", ignore_index=True)


def critical_difference(methods: int, cells: int, level: float = LEVEL) -> float:
    """Nemenyi's critical difference of mean ranks: `q * sqrt(k (k + 1) / (6 N))`.

    Args:
        methods: k, how many are ranked.
        cells: N, how many rankings.
        level: of significance.
    """
    q = studentized_range.ppf(1 - level, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * cells)))


def groups(ranks: pd.DataFrame) -> list[tuple[float, float]]:
    """Largest groups of methods that the test cannot tell apart: (best rank, worst rank).

    Args:
        ranks: as `mean_ranks` gives it.
    """
    values = np.sort(ranks["rank"].to_numpy())
    found: list[tuple[float, float]] = []
    for low in values:
        high = values[values <= low + ranks["critical_difference"].iloc[0]].max()
        if high > low and not (found and high <= found[-1][1]):
            found.append((float(low), float(high)))
    return found


def pairwise(scores: pd.DataFrame, method: str = "fedobp") -> pd.DataFrame:
    """One method against each other one.

    Args:
        scores: as `measured_scores` and `published_scores` give them.
        method: the one.

    Returns:
        against, title (of that method), cells (in which both were run), wins, ties, losses (of
        means over seeds; equal at two decimals is a tie), difference (mean over cells, percentage
        points), low, high (95 % bootstrap interval: cells are drawn, and within each the seeds of
        either method; NaN with a single cell), largest difference first. Empty if the method was
        not run.
    """
    columns = ["against", "title", "cells", "wins", "ties", "losses", "difference", "low", "high"]
    cells = _seeds_by_cell(scores)
    rows = []
    for other in dict.fromkeys(scores["method"]):
        pairs = [
            (values[method], values[other])
            for values in cells.values()
            if method in values and other in values
        ]
        if other == method or not pairs:
            continue
        differences = np.array([ours.mean() - theirs.mean() for ours, theirs in pairs])
        rounded = differences.round(2)
        low, high = _bootstrap(pairs)
        rows.append(
            {
                "against": other,
                "title": METHODS[other].title if other in METHODS else other,
                "cells": len(pairs),
                "wins": int((rounded > 0).sum()),
                "ties": int((rounded == 0).sum()),
                "losses": int((rounded < 0).sum()),
                "difference": differences.mean(),
                "low": low,
                "high": high,
            }
        )
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values("difference", ascending=False, kind="stable", ignore_index=True)


def told(ranks: pd.DataFrame) -> str:
    """The Friedman test in a sentence; says so where there is too little to test.

    Args:
        ranks: as `mean_ranks` gives it.
    """
    if ranks.empty:
        return (
            "No ranks: that takes three methods in at least two cells (a data set and an alpha) "
            "in which all of them were run."
        )
    row = ranks.iloc[0]
    answer = "differ" if row["p_value"] < LEVEL else "cannot be told apart"
    p_value = "< 0.001" if row["p_value"] < 0.001 else f"= {row['p_value']:.3f}"
    return (
        f"{len(ranks)} methods in {row['cells']} cells: their mean ranks {answer} (Friedman "
        f"{row['friedman']:.1f}, p {p_value}); two methods differ if their mean ranks are more "
        f"than {row['critical_difference']:.2f} apart (Nemenyi, level {LEVEL:g})."
    )


def _complete_cells(scores: pd.DataFrame) -> pd.DataFrame:
    """A row a cell, a column a method: mean over seeds; cells that lack a method are left out."""
    means = scores.groupby(["dataset", "alpha", "method"])["accuracy"].mean().unstack("method")
    order = [name for name in METHODS if name in means]
    return means[[*order, *(name for name in means if name not in METHODS)]].dropna()


def _seeds_by_cell(scores: pd.DataFrame) -> dict[tuple, dict[str, np.ndarray]]:
    cells: dict[tuple, dict[str, np.ndarray]] = {}
    ordered = scores.sort_values(["dataset", "alpha", "method", "seed"])
    for (dataset, alpha, method), group in ordered.groupby(["dataset", "alpha", "method"]):
        cells.setdefault((dataset, alpha), {})[method] = group["accuracy"].to_numpy(dtype=float)
    return cells


def _bootstrap(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    if len(pairs) < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    differences = np.empty(chosen.shape)
    for number, (ours, theirs) in enumerate(pairs):
        # A cell drawn twice has its seeds drawn anew each time.
        places = chosen == number
        count = int(places.sum())
        drawn = [rng.choice(v, (count, len(v))).mean(axis=1) for v in (ours, theirs)]
        differences[places] = drawn[0] - drawn[1]
    low, high = np.percentile(differences.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
