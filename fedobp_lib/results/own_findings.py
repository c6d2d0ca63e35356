"""What the kit's own runs on real images say, in sentences: for FINDINGS.md and `own_readme`.

Every number is computed from the runs that the repository keeps (`own_runs`); a test holds both
files to that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..errors import UserError
from ..paper.deviations import KNOWN_DIFFERENCES
from ..runs.store import RunResult
from .compare_logged import ONE_SEED
from .found import Finding
from .kept_runs import KeptRun, made_by
from .own_runs import (
    EXACT,
    NO_REASON,
    agreement,
    as_logged,
    at_last,
    at_round,
    beside_logs,
    cifar100_question,
    coverage,
    own_runs,
    starred,
)
from .precisions import beside_fp32
from .rules import runs_on_mnist
from .titles import title_of

POINT = 1.0  # percentage points: a printed value this near is taken for reached; what is further
# from a log is named
TOLD = 6  # methods that a data set must have, so that its best one is told


def kept() -> list[KeptRun]:
    """The kept runs; none where they are not there, as in an installed package."""
    try:
        return own_runs()
    except UserError:
        return []


def sentences(results: Sequence[RunResult]) -> list[str]:
    """What the runs say, the most telling first; nothing is said of what was not run."""
    parts = [
        _agreement(results), _stages(results), _best(results), _cifar100(results),
        _precision(results),
    ]  # fmt: skip
    return [text for text in parts if text]


def beside_the_logs() -> Finding:
    results = kept()
    said = "The kept runs are not here."
    if results:
        parts = [*sentences(results), *reasons(results), *missing(results)]
        said = "\n\n".join([what_ran(results), *parts])
    return Finding("Real images, beside the logs", said, "notebook 14")


OWN_FINDINGS = (beside_the_logs,)


def what_ran(results: Sequence[RunResult]) -> str:
    """Which runs there are, of what code, and how many of them have a log."""
    counterparts = beside_logs(results)[["dataset", "alpha", "method"]].drop_duplicates()
    return (
        "On real images, with the settings of the authors' logged runs as far as the kit has them; "
        f"those went to round 400. {made_by(results)} Of {len(as_logged(results))} runs with such "
        f"settings, logs of {len(counterparts)} are in the kit."
    )


def _agreement(results: Sequence[RunResult]) -> str:
    table = beside_logs(results)
    agree, pairs = agreement(table)
    if not pairs:
        return ""
    exact = table[table["dataset"].isin(EXACT)]
    least, most = f"{exact['margin'].min():.1f}", f"{exact['margin'].max():.1f}"
    span = most if least == most else f"{least} to {most}"
    away = exact.assign(away=exact["difference"].abs()).groupby("dataset", sort=False)["away"]
    medians = ", ".join(f"{dataset} {value:.2f}" for dataset, value in away.median().items())
    far = _far(exact)["method"].map(title_of).unique()
    return (
        f"Of {pairs} evaluations on exact data that have a logged counterpart, {agree} agree with "
        f"it. The rule is wide: it allows {span} points, nearly all of them for a spread of "
        f"{ONE_SEED:g} point over seeds, assumed where one was run. The median distance: "
        f"{medians}; over a point away: {', '.join(far) or 'none'}."
    )


def _far(table: pd.DataFrame) -> pd.DataFrame:
    """The evaluations that are over a point from their log, or differ by the rule."""
    return table[(table["difference"].abs() > POINT) | (table["verdict"] == "differs")]


def reasons(results: Sequence[RunResult]) -> list[str]:
    """What is known of the evaluations that are far from their log: one sentence, or none."""
    table = beside_logs(results)
    told = []
    far = _far(table[table["dataset"].isin(EXACT)])
    keys = ["method", "dataset", "alpha", "stage", "verdict"]
    for (method, dataset, alpha, stage, verdict), rows in far.groupby(keys, sort=False):
        least, most = rows["difference"].min(), rows["difference"].max()
        by = f"{least:+.2f}"
        by += f" to {most:+.2f}, {len(rows)} times" if len(rows) > 1 else ""
        reason = KNOWN_DIFFERENCES.get(method, NO_REASON)
        told.append(
            f"{title_of(method)} {stage}, {_cell(dataset, alpha)} ({by}"
            f"{'; differs' if verdict == 'differs' else ''}; reason: {reason})"
        )
    return [f"Over a point from their log: {'; '.join(told)}."] if told else []


def _stages(results: Sequence[RunResult]) -> str:
    """FedOBP beside FedAvg in the last round; as the two stages lead to opposite sentences."""
    table = at_last(results)
    table = table[table["method"].isin(["fedobp", "fedavg"])]
    cells = ["dataset", "alpha", "round"]
    wide = table.pivot(index=cells, columns=["method", "stage"], values="accuracy")
    told = []
    for (dataset, alpha, _), row in wide.iterrows():
        # Not every run is tested after local training.
        leads = [
            row.get(("fedobp", ours), math.nan) - row.get(("fedavg", theirs), math.nan)
            for ours, theirs in (("before", "before"), ("after", "after"), ("before", "after"))
        ]
        if not all(map(math.isnan, leads)):
            values = " / ".join("-" if math.isnan(lead) else f"{lead:+.2f}" for lead in leads)
            told.append(f"{_cell(dataset, alpha)} {values}")
    return (
        "FedOBP less FedAvg in the last round, both before local training / both after it / FedOBP "
        f"before, FedAvg after: {'; '.join(told)}."
        if told
        else ""
    )


def _best(results: Sequence[RunResult]) -> str:
    table = at_round(results).query("method != 'majority-class'")
    told = []
    for (dataset, alpha), rows in table.groupby(["dataset", "alpha"], sort=False):
        if rows["method"].nunique() < TOLD:
            continue
        parts = [
            f"{stage} {_ahead(rows[rows['stage'] == stage])}"
            for stage in ("before", "after")
            if (rows["stage"] == stage).sum() > 1
        ]
        told.append(
            f"{_cell(dataset, alpha)}, {rows['method'].nunique()} methods: {', '.join(parts)}"
        )
    return f"Best after 100 rounds, and by how much: {'; '.join(told)}." if told else ""


def _ahead(rows: pd.DataFrame) -> str:
    """The best method, its accuracy, and its lead on the next one."""
    rows = rows.sort_values("accuracy", ascending=False, kind="stable")
    best, second = rows.iloc[:2].itertuples()
    lead = best.accuracy - second.accuracy
    return f"{title_of(best.method)} {best.accuracy:.2f} (+{lead:.2f} on {title_of(second.method)})"


def _cifar100(results: Sequence[RunResult]) -> str:
    table = cifar100_question(results).query("round == 400")
    ours = table[table["method"] == "fedobp"]
    if ours.empty:
        return ""
    printed = ours["printed"].iloc[0]
    near = int((abs(ours["before"] - printed) <= POINT).sum())
    told = [f"{_both(row.before, row.after)} {row.what}{_log(row)}" for row in ours.itertuples()]
    others = [
        f"{row.title} {_both(row.before, row.after)}{_log(row)}"
        for row in table[table["method"] != "fedobp"].itertuples()
    ]
    return (
        "FedOBP on CIFAR-100, α = 0.1, after 400 rounds, before (after) local training: "
        f"{'; '.join(told)}. Table 1 prints {printed:.2f}: {near or 'none'} of them within a point "
        f"of it.{' Beside it: ' + '; '.join(others) + '.' if others else ''}"
    )


def _both(before: float, after: float) -> str:
    return f"{before:.2f}" if pd.isna(after) else f"{before:.2f} ({after:.2f})"


def _log(row: Any) -> str:
    return "" if pd.isna(row.logged) else f", logged {_both(row.logged, row.logged_after)}"


def _precision(results: Sequence[RunResult]) -> str:
    """How far bf16 is from fp32, in which notebook 13's runs on MNIST are."""
    try:
        exact = runs_on_mnist()
    except UserError:
        exact = []
    table = beside_fp32([*results, *exact])
    if table.empty:
        return ""
    names = ", ".join(title_of(str(name)) for name in table["method"].unique())
    stages = " and ".join(table["stage"].unique())
    rounds = ", ".join(map(str, sorted(table["round"].unique())))
    return (
        f"{' and '.join(table['precision'].unique())} beside fp32, the same settings: "
        f"{len(table)} evaluations ({names} on {', '.join(table['dataset'].unique())}, {stages} "
        f"local training, round {rounds}), at most {table['difference'].abs().max():.2f} points "
        "apart."
    )


def missing(results: Sequence[RunResult]) -> list[str]:
    """Which planned runs are not there: one sentence, or none."""
    table = coverage(results).query("runs < planned")
    told = ", ".join(f"{r.planned - r.runs} of {r.planned} {r.what}" for r in table.itertuples())
    return [f"Runs still to be computed: {told}."] if told else []


def _cell(dataset: str, alpha: float) -> str:
    return f"{starred(dataset)} α{alpha:g}"
