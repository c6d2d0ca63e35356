"""Remarks on Tables 1 and 6 before and after local training, over all columns together.

A column is a data set and alpha. One alone says little about a method, so nothing is told of fewer
than `COLUMNS`: with five, a sign test cannot reach 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ...methods import METHODS
from ...paper.logged import logged_accuracy
from ...paper.published import published_accuracy
from ...runs.store import RunResult
from ..tables import accuracies
from ..titles import title_of
from .finding import POINT, UNKNOWN, Finding

COLUMNS = 6
RESAMPLES = 10_000

# Stage -> accuracies, a row a column of the tables and a column a method: `before`, the best of
# the evaluated rounds; `after`, the last.
Stages = dict[str, pd.DataFrame]


def stages(results: Sequence[RunResult]) -> Stages:
    """Pooled accuracies over all clients, mean over the runs of a method."""
    if not results:
        return {stage: pd.DataFrame() for stage in ("before", "after")}
    frame = accuracies(results).query("average == 'pooled'")
    cell = ["dataset", "alpha", "method"]
    return {
        stage: frame[frame["stage"] == stage].groupby(cell)[which].mean().unstack("method")
        for stage, which in (("before", "best"), ("after", "last"))
    }


def printed_stages() -> Stages:
    """What the paper prints: nothing after local training."""
    printed = published_accuracy().set_index(["dataset", "alpha", "method"])
    before = printed["accuracy_mean_percent"].unstack("method")
    return {"before": before, "after": pd.DataFrame()}


def logged_methods() -> list[str]:
    """The methods that the authors logged at momentum 0.7."""
    return sorted(logged_accuracy().query("momentum == 0.7")["method"].unique())


def tuned_fedavg_as_good(found: Stages) -> Finding:
    """FedAvg after local training is not behind FedOBP before it."""
    pairs = _pairs(found["before"], "fedobp", found["after"], "fedavg")
    if pairs is None:
        return UNKNOWN
    difference = pairs["fedobp"] - pairs["fedavg"]
    told = paired(pairs["fedobp"], pairs["fedavg"])
    if len(difference) < COLUMNS:
        return Finding(told)
    return Finding(told, _interval(difference.to_numpy())[0] <= 0)


def lead_gone_after_training(found: Stages) -> Finding:
    """FedOBP leads FedAvg by over a point before local training, and by at most one after it."""
    leads = []
    for stage in ("before", "after"):
        pairs = _pairs(found[stage], "fedobp", found[stage], "fedavg")
        if pairs is None:
            return UNKNOWN
        leads.append(pairs["fedobp"] - pairs["fedavg"])
    before, after = (lead.mean() for lead in leads)
    told = f"{before:+.2f} points before, {after:+.2f} after, over {len(leads[0])} columns"
    few = min(map(len, leads)) < COLUMNS
    return Finding(told, None if few else bool(before > POINT and after <= POINT))


def best_in_most(found: Stages, stage: str) -> Finding:
    """FedOBP is the best method, or level with it at two decimals, in most columns."""
    table = _compared(found[stage])
    if table.empty:
        return UNKNOWN
    best = int((table["fedobp"] == table.max(axis=1)).sum()) if "fedobp" in table else 0
    told = f"{winners(table)}, of {len(table)}{_which(table)}"
    return Finding(told, None if _too_few(table) else best > len(table) / 2)


def leads_below_a_point(found: Stages, stage: str) -> Finding:
    """In every column the best method leads the next by less than a point."""
    table = _compared(found[stage])
    if table.empty:
        return UNKNOWN
    lead = leads(table)
    told = f"leads: median {lead.median():.2f}, at most {lead.max():.2f}, over {len(table)} columns"
    told += _which(table)
    return Finding(told, None if _too_few(table) else bool(lead.max() < POINT))


def winners(table: pd.DataFrame) -> str:
    """In how many columns each method is the best alone, and in how many there is a tie."""
    sole = table[leads(table) > 0]
    counts = sole.idxmax(axis=1).value_counts() if len(sole) else pd.Series(dtype=int)
    told = [f"{METHODS[str(method)].title} {count}" for method, count in counts.items()]
    tied = len(table) - len(sole)
    return ", ".join([*told, f"a tie in {tied}"] if tied else told)


def leads(table: pd.DataFrame) -> pd.Series:
    """Of each row, the best less the second best."""
    ordered = np.sort(table.to_numpy(), axis=1)
    return pd.Series(ordered[:, -1] - ordered[:, -2], table.index)


def paired(ours: pd.Series, theirs: pd.Series) -> str:
    """Mean difference with its interval, columns won and lost, and a sign test, in words."""
    difference = (ours - theirs).to_numpy()
    low, high = _interval(difference)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    p_value = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    return (
        f"{difference.mean():+.2f} points on average over {len(difference)} (95 % bootstrap "
        f"interval {low:+.2f} to {high:+.2f}), ahead in {wins} and behind in {losses} (sign test, "
        f"p = {p_value:.2f})"
    )


def _interval(values: np.ndarray) -> tuple[float, float]:
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _pairs(first: pd.DataFrame, ours: str, second: pd.DataFrame, theirs: str):
    """Two methods' accuracies in the columns that have both; None: there are none."""
    if ours not in first or theirs not in second:
        return None
    pairs = pd.concat([first[ours], second[theirs]], axis=1, keys=[ours, theirs]).dropna()
    return None if pairs.empty else pairs


def _compared(table: pd.DataFrame) -> pd.DataFrame:
    """The methods with every column, where there are two; at the two decimals that are printed."""
    whole = table.drop(columns="majority-class", errors="ignore").round(2).dropna(axis=1)
    return whole if whole.shape[1] > 1 else pd.DataFrame()


def _too_few(table: pd.DataFrame) -> bool:
    return len(table) < COLUMNS or not _all_methods(table)


def _all_methods(table: pd.DataFrame) -> bool:
    return set(logged_methods()) <= set(table)


def _which(table: pd.DataFrame) -> str:
    """Which methods were compared, where they are not all that were logged."""
    if _all_methods(table):
        return ""
    return f" (of those methods alone that have every column: {', '.join(map(title_of, table))})"
