"""Finished runs beside the published numbers, cell by cell.

Like is compared with like: accuracy before local training, over all clients, pooled over their
test samples, the best of the evaluated rounds, as in the published tables. The verdict follows
from one rule, `RULE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..config import RunConfig
from ..errors import UserError
from ..paper.published import published_accuracy, published_normalizations, published_resnet18
from ..runs.experiments import (
    Experiment,
    accuracy_runs,
    find_experiment,
    normalization_runs,
    parameters_of,
    resnet18_runs,
)
from ..runs.normalizations import normalization_of
from ..runs.presets import listed
from ..runs.store import RunResult
from ..runs.sweeps import finished
from .departures import setting_of
from .tables import accuracies

RULE = (
    "agrees: the printed mean lies within our interval, widened on each side by one percentage "
    "point. The printed deviation is not used: it is one over momentum and repetition with one "
    "seed, not over seeds. Our interval is the 95 % bootstrap interval of the mean over seeds, "
    "which is too narrow for few seeds (four: it covers about 80 %, two: half); with one seed it "
    "is that one value. Compared at the two decimals that the paper prints. "
    "differs: it does not. "
    "diverged: a run of ours did; the mean is that of the others. "
    "not run: there is no finished run. "
    "only ours: the paper has no such number."
)
VERDICTS = ("agrees", "differs", "diverged", "not run", "only ours")
MARGIN = 1.0  # percentage points
RESAMPLES = 10_000


def compare_accuracy(results: Sequence[RunResult]) -> pd.DataFrame:
    """Tables 1 and 6, cell by cell.

    Args:
        results: finished runs of `experiments.accuracy_runs`.

    Returns:
        A row for every published cell and for every other cell that was run: table, dataset,
        alpha, method, published_mean, published_std, mean, std (over seeds), seeds, difference
        (ours less the published), low, high (interval of our mean, see `interval`), setting (how
        the runs depart from the paper's), verdict (see `RULE`). Accuracies in percent, NaN where
        there is none. `fedavg-fine-tuned` is FedAvg after local training, in the last round.
    """
    published = published_accuracy().rename(
        columns={
            "accuracy_mean_percent": "published_mean",
            "accuracy_std_percent": "published_std",
        }
    )
    return _compare(measured(results), results, published, "method", accuracy_runs)


def compare_resnet18(results: Sequence[RunResult]) -> pd.DataFrame:
    """Table 7, cell by cell: columns as `compare_accuracy`; the paper prints no deviations.

    Args:
        results: finished runs of `experiments.resnet18_runs`.
    """
    published = published_resnet18().rename(columns={"accuracy_percent": "published_mean"})
    published = published.assign(table=7, published_std=np.nan)
    return _compare(measured(results), results, published, "method", resnet18_runs)


def compare_normalizations(results: Sequence[RunResult]) -> pd.DataFrame:
    """Table 8, cell by cell: columns as `compare_accuracy`, with normalization for method.

    Args:
        results: finished runs of `experiments.normalization_runs`; `normalization` has the keys
            of `normalizations.ALL_NORMALIZATIONS`.
    """
    published = published_normalizations().rename(columns={"accuracy_percent": "published_mean"})
    published = published.assign(table=8, published_std=np.nan)
    ours = measured_normalizations(results)
    return _compare(ours, results, published, "normalization", normalization_runs)


def measured(results: Sequence[RunResult]) -> pd.DataFrame:
    """The accuracy that the published tables show, run by run.

    Returns:
        dataset, alpha, method, seed, accuracy (percent; NaN: diverged), run_id. A FedAvg run tested
        after local training has a second row, `fedavg-fine-tuned`.
    """
    columns = ["dataset", "alpha", "method", "seed", "accuracy", "run_id"]
    if not results:
        return pd.DataFrame(columns=columns)
    frame = accuracies(results).query("average == 'pooled'").rename(columns={"best": "accuracy"})
    before = frame[frame["stage"] == "before"]
    tuned = frame[(frame["stage"] == "after") & (frame["method"] == "fedavg")]
    tuned = tuned.assign(method="fedavg-fine-tuned", accuracy=tuned["last"])
    frame = pd.concat([before, tuned], ignore_index=True)
    return frame[columns]


def measured_normalizations(results: Sequence[RunResult]) -> pd.DataFrame:
    """As `measured`, of FedOBP's runs, with the column `normalization`."""
    ours = [result for result in results if result.config.method == "fedobp"]
    names = {result.run_id: normalization_of(result.config) for result in ours}
    frame = measured(results)
    frame["normalization"] = frame["run_id"].map(names)
    return frame.dropna(subset="normalization")


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of a mean; always the same for the same values.

    Returns:
        (low, high); NaN for fewer than two values.
    """
    if len(values) < 2:
        return np.nan, np.nan
    ordered = np.sort(np.asarray(values, dtype=float))
    means = np.random.default_rng(0).choice(ordered, (RESAMPLES, len(ordered))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def verdict(published: float, mean: float, low: float, high: float) -> str:
    """One of `VERDICTS`, by `RULE`.

    Args:
        published: in percent; NaN where not printed.
        mean, low, high: ours and its interval; `low` and `high` are NaN for a single seed.
    """
    if np.isnan(published):
        return "only ours"
    if np.isnan(mean):
        return "not run"
    if np.isnan(low):
        low = high = mean
    inside = round(low - MARGIN, 2) <= round(published, 2) <= round(high + MARGIN, 2)
    return "agrees" if inside else "differs"


def _compare(
    ours: pd.DataFrame,
    results: Sequence[RunResult],
    published: pd.DataFrame,
    kind: str,
    runs: Callable[..., list[RunConfig]],
) -> pd.DataFrame:
    keys = ["dataset", "alpha", kind]
    printed = published.set_index(keys)[["table", "published_mean", "published_std"]]
    printed = printed.to_dict("index")
    tables = dict(zip(published["dataset"], published["table"], strict=True))
    # Table 7 and Table 8 are one table each, whatever the data set.
    other = published["table"].iloc[0] if published["table"].nunique() == 1 else pd.NA
    cells = {key: group for key, group in ours.groupby(keys, sort=False)}
    by_id = {result.run_id: result for result in results}

    every = dict.fromkeys([*printed, *cells])
    blocks = list(dict.fromkeys(key[:2] for key in every))
    rows = []
    for key in sorted(every, key=lambda key: blocks.index(key[:2])):
        found = cells.get(key, ours.iloc[:0])
        values = found["accuracy"].dropna().to_numpy(dtype=float)
        mean = values.mean() if len(values) else np.nan
        low, high = interval(values)
        row = {"table": tables.get(key[0], other)} | dict(zip(keys, key, strict=True))
        row |= printed.get(key, {"published_mean": np.nan, "published_std": np.nan})
        row |= {
            "mean": mean,
            "std": values.std(ddof=1) if len(values) > 1 else np.nan,
            "seeds": found.dropna(subset="accuracy")["seed"].nunique(),
            "difference": mean - row["published_mean"],
            "low": low,
            "high": high,
            "setting": setting_of([by_id[run] for run in found["run_id"]], runs),
        }
        row["verdict"] = verdict(row["published_mean"], mean, low, high)
        if found["accuracy"].isna().any():
            row["verdict"] = "diverged"
        rows.append(row)
    return pd.DataFrame(rows).astype({"table": "Int64"})


COMPARISONS = {
    1: compare_accuracy,
    6: compare_accuracy,
    7: compare_resnet18,
    8: compare_normalizations,
}


def compare_tables(
    preset: str = "quick", tables: Sequence[int] | None = None, **given: Any
) -> pd.DataFrame:
    """What is finished of the tables' runs, beside the published numbers; computes nothing.

    Args:
        preset: a name of `presets.PRESETS`.
        tables: of 1, 6, 7 and 8; None: all.
        given: datasets, alphas, methods, seeds, rounds; None: the preset's. Data sets, alphas
            and methods also choose among the published cells.

    Returns:
        As the comparisons of the single tables, one below the other.

    Raises:
        UserError: unknown preset, table, method or data set, or no cell is left.
    """
    wanted = list(dict.fromkeys(tables or COMPARISONS))
    for number in wanted:
        if number not in COMPARISONS:
            known = ", ".join(map(str, COMPARISONS))
            raise UserError(f"table {number} has no accuracies to compare; there are {known}")
    given = {name: value for name, value in given.items() if value is not None}
    frames = []
    for experiment, numbers in _experiments(wanted):
        results = finished(_runs(experiment, preset, numbers, given))
        frame = COMPARISONS[numbers[0]](results)
        # A data set that the paper does not have belongs to whatever was asked for.
        frames.append(_chosen(frame[frame["table"].isin(numbers) | frame["table"].isna()], given))
    frame = pd.concat(frames, ignore_index=True)
    if frame.empty:
        raise UserError("these tables have no such cell, and none was run")
    return frame


def _chosen(frame: pd.DataFrame, given: dict[str, Any]) -> pd.DataFrame:
    for name, column in (("datasets", "dataset"), ("alphas", "alpha"), ("methods", "method")):
        if name in given and column in frame:
            values = set(listed(given[name], name) or ())
            if "fedavg" in values:
                values.add("fedavg-fine-tuned")
            frame = frame[frame[column].isin(values)]
    return frame


def _experiments(tables: Iterable[int]) -> list[tuple[Experiment, list[int]]]:
    """The experiments behind some tables, each with those of the tables that it makes."""
    grouped: dict[str, tuple[Experiment, list[int]]] = {}
    for number in tables:
        experiment, _ = find_experiment("table", number)
        grouped.setdefault(experiment.notebook, (experiment, []))[1].append(number)
    return list(grouped.values())


def _runs(
    experiment: Experiment, preset: str, tables: Sequence[int], given: dict[str, Any]
) -> list[RunConfig]:
    parts = [experiment.tables[number] for number in tables]
    assert experiment.runs is not None  # every comparable table is of runs
    return experiment.runs(preset, **parameters_of(parts, preset, given))
