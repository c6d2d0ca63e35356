"""From finished runs to the accuracy tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from ..methods import METHODS
from ..paper.logged import logged_accuracy
from ..paper.published import published_accuracy
from ..runs.store import RunResult
from ..training.evaluation import AVERAGES, STAGES

FINE_TUNED = "FedAvg + fine-tuning"


def accuracies(results: Sequence[RunResult]) -> pd.DataFrame:
    """One row a run and kind of accuracy over all clients, in percent.

    Columns: dataset, alpha, method, title, seed, stage, average, best (of the evaluated
    rounds), last, run_id. Of a run that diverged, best and last are NaN. A run given twice counts
    once.
    """
    rows = []
    for result in dict.fromkeys(results):
        config, history = result.config, result.history
        history = history[history["scope"] == "all"]
        if result.diverged:
            kinds = pd.DataFrame(list(product(STAGES, AVERAGES)), columns=["stage", "average"])
            history = kinds.assign(accuracy=np.nan)
        for (stage, average), group in history.groupby(["stage", "average"], sort=False):
            rows.append(
                {
                    "dataset": config.dataset,
                    "alpha": config.alpha,
                    "method": config.method,
                    "title": METHODS[config.method].title,
                    "seed": config.seed,
                    "stage": stage,
                    "average": average,
                    "best": group["accuracy"].max(),
                    "last": group["accuracy"].iloc[-1],
                    "run_id": result.run_id,
                }
            )
    return pd.DataFrame(rows)


def accuracy_table(
    results: Sequence[RunResult],
    stage: str = "before",
    average: str = "pooled",
    which: str = "best",
) -> pd.DataFrame:
    """Mean and standard deviation over seeds, beside the printed and the logged numbers.

    FedAvg after local training is a row of its own, and so is every method given.

    Args:
        results: finished runs.
        stage, average: see `fedobp_lib.training.evaluation`.
        which: `best` of the evaluated rounds (the published tables' metric) or `last`. The
            fine-tuned row is of the last round in any case.

    Returns:
        Columns: dataset, alpha, method, title, stage, average, which, mean, std (NaN for a single
        seed), seeds, published_mean, published_std (NaN where the paper has none), logged_mean (as
        the authors logged it at momentum 0.7, NaN where they did not; see `logged_cells`), sorted
        by mean; where a run diverged, also the number of `diverged` runs, which the mean and the
        seeds leave out. The published and logged numbers are of the table's metric only: before
        local training, pooled, best.
    """
    if average not in AVERAGES:
        raise ValueError(f"average must be one of {AVERAGES}")
    tidy = accuracies(results)
    chosen = tidy[(tidy["stage"] == stage) & (tidy["average"] == average)]
    if stage == "before":
        tuned = tidy[
            (tidy["stage"] == "after") & (tidy["average"] == average) & (tidy["method"] == "fedavg")
        ].assign(method="fedavg-fine-tuned", title=FINE_TUNED)
        tuned = tuned.assign(best=tuned["last"])
        chosen = pd.concat([chosen, tuned])
    keys = ["dataset", "alpha", "method", "title"]
    table = (
        chosen.groupby(keys, sort=False)[which]
        .agg(mean="mean", std="std", seeds="count", diverged=lambda seeds: seeds.isna().sum())
        .reset_index()
    )
    if not table["diverged"].any():
        table = table.drop(columns="diverged")
    published = published_accuracy().rename(
        columns={
            "accuracy_mean_percent": "published_mean",
            "accuracy_std_percent": "published_std",
        }
    )
    table = table.merge(
        published.drop(columns="table"), on=["dataset", "alpha", "method"], how="left"
    )
    table = table.merge(logged_cells(), on=["dataset", "alpha", "method"], how="left")
    tuned = table["method"] == "fedavg-fine-tuned"
    table.insert(4, "stage", np.where(tuned, "after", stage))
    table.insert(5, "average", average)
    table.insert(6, "which", which)
    return table.sort_values(["dataset", "alpha", "mean"], ignore_index=True)


def logged_cells() -> pd.DataFrame:
    """What the authors logged for Tables 1 and 6: dataset, alpha, method, logged_mean.

    At momentum 0.7, before local training, all clients, pooled, best of the evaluated rounds, of
    the latest run of a configuration. `fedavg-fine-tuned` is FedAvg after local training in the
    last evaluated round. Of Fashion-MNIST only round 400 is known.
    """
    keys = ["dataset", "alpha", "method"]
    frame = logged_accuracy().query("momentum == 0.7")
    frame = frame[frame["run"] == frame.groupby(keys)["run"].transform("max")]
    before = frame[frame["stage"] == "before"].groupby(keys, sort=False)["accuracy"].max()
    tuned = frame[(frame["stage"] == "after") & (frame["method"] == "fedavg")]
    last = tuned.sort_values("round").groupby(keys, sort=False)["accuracy"].last().reset_index()
    both = [before.reset_index(), last.assign(method="fedavg-fine-tuned")]
    return pd.concat(both, ignore_index=True).rename(columns={"accuracy": "logged_mean"})


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table as people read it: a row a method, `mean (std)` a cell, best method last.

    Columns of printed and of logged numbers stand beside every column that has any.
    """
    order = table.groupby("title")["mean"].mean().sort_values().index
    columns = {}
    for (dataset, alpha), cell in table.groupby(["dataset", "alpha"], sort=False):
        cell = cell.set_index("title")
        name = f"{dataset}, alpha {alpha}"
        columns[name] = _cells(cell["mean"], cell["std"])
        if "diverged" in cell:
            columns[name] = _with_diverged(columns[name], cell["diverged"])
        if cell["published_mean"].notna().any():
            columns[f"{name}, printed"] = _cells(cell["published_mean"], cell["published_std"])
        if cell["logged_mean"].notna().any():
            columns[f"{name}, logged"] = _cells(cell["logged_mean"], cell["logged_mean"] * np.nan)
    return pd.DataFrame(columns, index=order).fillna("-").rename_axis("accuracy in percent")


def _with_diverged(cells: pd.Series, diverged: pd.Series) -> pd.Series:
    def text(cell: str, count: int) -> str:
        if not count:
            return cell
        return "diverged" if cell == "-" else f"{cell}, {count} diverged"

    return pd.Series({title: text(cells[title], diverged[title]) for title in cells.index})


def _cells(means: pd.Series, stds: pd.Series) -> pd.Series:
    def text(mean: float, std: float) -> str:
        if np.isnan(mean):
            return "-"
        return f"{mean:.2f}" if np.isnan(std) else f"{mean:.2f} ({std:.2f})"

    return pd.Series({title: text(means[title], stds[title]) for title in means.index})
