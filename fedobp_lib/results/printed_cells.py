"""Where the printed cells of Tables 1 and 6 come from, judged by what the authors logged.

A cell prints a mean and a deviation. A set of logged values explains it if its mean and its
population deviation both round to the printed digits. Sets are not searched for: there are two
that a reader would try, the `mix` (the three result sheets at momentum 0 and one run at momentum
0.7) and `momentum 0` (the sheets alone).

Of Fashion-MNIST only round 400 is in the package, so the best of the four evaluated rounds is not
known. There a cell is `open` if one best value, no lower than the one of round 400, would make
the mix fit both the mean and the deviation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..paper.logged import LOGGED_ROUNDS, logged_accuracy, logged_sheets
from ..paper.published import published_accuracy

MIX, SHEETS, OPEN, NONE = "mix", "momentum 0", "open", "not explained"
HALF_DIGIT = 0.005 + 1e-9  # the tables print two decimals
PERMUTATIONS = 1000

Cell = tuple[str, float, str]


def explained_cells() -> pd.DataFrame:
    """Every printed cell beside the logged values that it may consist of.

    Returns:
        table, dataset, alpha, method, printed_mean, printed_std, sheets (values at momentum 0, as
        text), logged (best values at momentum 0.7, as text), complete (whether all four evaluated
        rounds are known), used (the values of the explanation, as text), mean, std (of them),
        explanation (`mix`, `momentum 0`, `open` or `not explained`; missing where there are not
        three sheets and a run, so that nothing can be told).
    """
    sheets, runs = _sheets(), _best()
    rows = []
    for row in published_accuracy().itertuples():
        key = (row.dataset, row.alpha, row.method)
        low, (high, complete) = sheets.get(key, []), runs.get(key, ([], True))
        printed = (row.accuracy_mean_percent, row.accuracy_std_percent)
        name, used = _explain(printed, low, high, complete)
        rows.append(
            {
                "table": row.table, "dataset": row.dataset, "alpha": row.alpha,
                "method": row.method, "printed_mean": printed[0], "printed_std": printed[1],
                "sheets": _text(low), "logged": _text(high), "complete": complete,
                "used": _text(used), "mean": np.mean(used) if used else np.nan,
                "std": np.std(used) if used else np.nan, "explanation": name,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def explained_by_method(cells: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each method have which explanation, of those that can be told.

    Args:
        cells: as `explained_cells` gives it.
    """
    told = cells.dropna(subset="explanation")
    counts = told.groupby(["method", "explanation"], sort=False).size().unstack(fill_value=0)
    columns = [name for name in (MIX, SHEETS, OPEN, NONE) if name in counts]
    return counts[columns].assign(cells=counts.sum(axis=1)).reset_index()


def by_chance(permutations: int = PERMUTATIONS, seed: int = 0) -> np.ndarray:
    """How many cells the mix would explain if the logged values belonged to other cells.

    The cells with three sheets and a run at momentum 0.7 exchange their logged values at random.

    Returns:
        int (permutations,), explained cells each time.
    """
    sheets, runs = _sheets(), _best()
    rows = []
    for row in published_accuracy().itertuples():
        key = (row.dataset, row.alpha, row.method)
        low, (high, _) = sheets.get(key, []), runs.get(key, ([], True))
        if len(low) == 3 and high:
            mix = [*low, *high]
            printed = (row.accuracy_mean_percent, row.accuracy_std_percent)
            rows.append((*printed, np.mean(mix), np.std(mix)))
    printed_values, logged_values = np.split(np.array(rows), 2, axis=1)
    rng = np.random.default_rng(seed)
    counts = []
    for _ in range(permutations):
        away = np.abs(rng.permutation(logged_values) - printed_values)
        counts.append((away <= HALF_DIGIT).all(axis=1).sum())
    return np.array(counts)


def _explain(
    printed: tuple[float, float], low: Sequence[float], high: Sequence[float], complete: bool
) -> tuple[str | None, list[float]]:
    """The name of the explanation, and its values."""
    for value in high:
        if len(low) == 3 and _fits(printed, [*low, value]):
            return MIX, [*low, value]
    if len(low) > 1 and _fits(printed, low):
        return SHEETS, list(low)
    if len(low) < 3 or not high:
        return None, []
    if not complete:
        missing = _needed(printed, low)
        if missing is not None and missing >= min(high):
            return OPEN, [*low, missing]
    return NONE, []


def _fits(printed: tuple[float, float], values: Sequence[float]) -> bool:
    mean, std = printed
    away = max(abs(np.mean(values) - mean), abs(np.std(values) - std))
    return bool(away <= HALF_DIGIT)


def _needed(printed: tuple[float, float], low: Sequence[float]) -> float | None:
    """A value of two decimals that would complete the mix, the nearest to the printed mean's."""
    centre = round(4 * printed[0] - sum(low), 2)
    steps = sorted((0.01 * k for k in range(-3, 4)), key=abs)
    for value in (round(centre + step, 2) for step in steps):
        if _fits(printed, [*low, value]):
            return value
    return None


def _sheets() -> Mapping[Cell, list[float]]:
    frame = logged_sheets().sort_values("sheet")
    return frame.groupby(["dataset", "alpha", "method"])["accuracy"].apply(list).to_dict()


def _best() -> Mapping[Cell, tuple[list[float], bool]]:
    """Best evaluated round of the latest run at momentum 0.7, and whether all four are known."""
    frame = logged_accuracy().query("momentum == 0.7 and stage == 'before'")
    runs = frame.groupby(["dataset", "alpha", "method", "run"])["accuracy"].agg(["max", "count"])
    found: dict[Cell, tuple[list[float], bool]] = {}
    for (dataset, alpha, method), group in runs.groupby(level=[0, 1, 2]):
        latest = group.iloc[-1]
        complete = bool(latest["count"] == len(LOGGED_ROUNDS))
        found[dataset, alpha, method] = [float(latest["max"])], complete
    return found


def _text(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)
