"""Finished runs beside what the paper's authors logged, like with like.

A run has a counterpart where its data set, alpha, method and momentum were logged, at each round
that both evaluated on all clients (the logs have 100, 200, 300 and 400), before and after local
training. Where a configuration was logged several times it is the latest run.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd

from ..methods import METHODS
from ..paper.logged import logged_accuracy
from ..runs.store import RunResult
from ..terminal import aligned, folded

RULE_LOGGED = (
    "agrees: our mean and the logged value differ by at most twice the deviation of their "
    "difference. That deviation has two parts, each for their one run and for the mean of ours: "
    "the binomial deviation of a test with that many samples, and the deviation of our runs over "
    "seeds, for which one percentage point stands in where there is one seed. "
    "differs: it does not. "
    "not logged: the logs have no such number. "
    "Where the authors logged a configuration several times, the latest run counts."
)
ONE_SEED = 1.0  # percentage points, for an unknown deviation over seeds
COLUMNS = (
    "dataset", "alpha", "method", "momentum", "round", "stage", "logged", "mean", "std", "seeds",
    "difference", "margin", "verdict",
)  # fmt: skip


def compare_logged(results: Sequence[RunResult]) -> pd.DataFrame:
    """Our runs beside the logged ones.

    Args:
        results: finished runs; of FedOBP, those whose settings are the logged ones should be
            given alone, as all runs of a method are taken together.

    Returns:
        dataset, alpha, method, momentum, round, stage, logged, mean, std (over seeds), seeds,
        difference (ours less the logged), margin (see `RULE_LOGGED`), verdict; accuracies in
        percent, all clients, pooled. A row for every round and stage that ours evaluated and the
        logs could have.
    """
    logged = _latest()
    groups: dict[tuple, list[tuple[float, int, int]]] = {}
    for result in results:
        config = result.config
        rows = result.history.query("scope == 'all' and average == 'pooled'")
        samples = int(result.clients["test_samples"].sum())
        for row in rows.itertuples():
            if row.round % 100 == 0:
                key = (config.dataset, config.alpha, config.method, config.momentum)
                place = (*key, row.round, row.stage)
                groups.setdefault(place, []).append((row.accuracy, config.seed, samples))
    table = []
    for place, found in groups.items():
        values = np.array([accuracy for accuracy, _, _ in found])
        seeds = len({seed for _, seed, _ in found})
        theirs = logged.get(place, np.nan)
        spread = float(values.std(ddof=1)) if seeds > 1 else np.nan
        row = {"logged": theirs, "mean": values.mean(), "std": spread, "seeds": seeds}
        row["difference"] = row["mean"] - theirs
        row["margin"] = margin(row["mean"], found[0][2], spread, seeds)
        row["verdict"] = _verdict(row)
        table.append(dict(zip(COLUMNS[:6], place, strict=True)) | row)
    return pd.DataFrame(table, columns=list(COLUMNS))


def margin(accuracy: float, samples: int, spread: float, seeds: int) -> float:
    """Twice the deviation of the difference between their run and the mean of ours.

    Args:
        accuracy: in percent.
        samples: test samples, pooled.
        spread: deviation of ours over seeds, in percentage points; NaN: unknown.
        seeds: how many of ours.
    """
    share = accuracy / 100
    binomial = 100 * sqrt(share * (1 - share) / samples)
    over_seeds = ONE_SEED if np.isnan(spread) else spread
    return 2 * sqrt((1 + 1 / seeds) * (binomial**2 + over_seeds**2))


def readable_logged(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison as people read it; what was not logged is left out."""
    shown = table[table["verdict"] != "not logged"]
    return pd.DataFrame(
        {
            "data set": shown["dataset"],
            "alpha": shown["alpha"].map("{:g}".format),
            "method": [METHODS[name].title for name in shown["method"]],
            "momentum": shown["momentum"].map("{:g}".format),
            "round": shown["round"],
            "stage": shown["stage"],
            "logged": shown["logged"].map("{:.2f}".format),
            "ours": shown["mean"].map("{:.2f}".format),
            "seeds": shown["seeds"],
            "difference": shown["difference"].map("{:+.2f}".format),
            "margin": shown["margin"].map("{:.2f}".format),
            "verdict": shown["verdict"],
        }
    )


def logged_text(table: pd.DataFrame) -> str:
    """The comparison for a terminal, 80 columns wide, with the rule at its end."""
    shown = readable_logged(table).rename(columns={"difference": "diff"})
    if shown.empty:
        return folded(
            "no finished run has a logged counterpart; such runs make, for instance: fedobp "
            "reproduce --preset logged --table 6 --datasets mnist --rounds 100"
        )
    parts = []
    for (dataset, alpha, momentum), block in shown.groupby(
        ["data set", "alpha", "momentum"], sort=False
    ):
        columns = ["method", "round", "stage", "logged", "ours", "seeds", "diff", "verdict"]
        rows = [columns, *block[columns].astype(str).to_numpy().tolist()]
        title = f"{dataset}, alpha {alpha}, momentum {momentum}"
        parts.append("\n".join([title, *aligned(rows, left=(0, 2))]))
    counts = table["verdict"].value_counts()
    told = ", ".join(f"{count} {name}" for name, count in counts.items())
    return "\n\n".join([*parts, folded(f"{told}.", 0), folded(RULE_LOGGED, 0)])


def _verdict(row: dict[str, Any]) -> str:
    if np.isnan(row["logged"]):
        return "not logged"
    return "agrees" if abs(row["difference"]) <= row["margin"] else "differs"


def _latest() -> dict[tuple, float]:
    keys = ["dataset", "alpha", "method", "momentum"]
    frame = logged_accuracy()
    frame = frame[frame["run"] == frame.groupby(keys)["run"].transform("max")]
    return frame.set_index([*keys, "round", "stage"])["accuracy"].to_dict()
