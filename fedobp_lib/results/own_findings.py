"""What the kit's own runs on real images say, in sentences: for FINDINGS.md and README.md.

Every number is computed from the runs that the repository keeps (`own_runs`); a test holds both
files to that.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..errors import UserError
from ..runs.store import RunResult
from .found import Finding
from .kept_runs import KeptRun, made_by
from .own_runs import (
    EXACT,
    MISSING,
    agreement,
    at_round,
    beside_logs,
    cifar100_question,
    coverage,
    main_table,
    own_runs,
)
from .precisions import beside_fp32
from .rules import runs_on_mnist
from .titles import title_of

BEGIN = "<!-- own runs: written by benchmarks/round100.py -->"
END = "<!-- own runs end -->"
COPY = "*"  # marks a data set that is no exact copy
POINT = 1.0  # percentage points: a printed value this near is taken for reached
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
        parts = [*sentences(results), _differing(results), _missing(results)]
        said = " ".join(part for part in parts if part)
    return Finding("Real images, each run beside its log", said, "notebook 14")


OWN_FINDINGS = (beside_the_logs,)


def readme_part(results: Sequence[RunResult]) -> str:
    """The README's part about these runs, Markdown: sentences, the main table, two figures."""
    said = sentences(results)
    lines = [f"- {text}" for text in [*said, _missing(results)] if text]
    return "\n".join(
        [
            BEGIN,
            "On real images, 100 rounds, with the settings that the authors logged: "
            + made_by(results),
            "",
            *lines,
            "",
            *_markdown(_marked(main_table(results))),
            "",
            "*Ours (logged), percent: all clients, pooled, after 100 rounds, before local training "
            "but for the row `+ fine-tuning`. `-`: not run, or not tested then; `(-)`: not logged "
            f"then. `{COPY}`: a re-compressed copy of CIFAR-10, so not the data of the logged "
            "runs.*",
            "",
            "![Ours less logged](figures/quick/own_beside_logs.png)",
            "![Accuracy over rounds](figures/quick/own_curves.png)",
            END,
        ]
    )


def with_readme_part(text: str, results: Sequence[RunResult]) -> str:
    """A README with its part written anew.

    Raises:
        UserError: the marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"README.md lacks the lines {BEGIN} and {END}")
    return before + readme_part(results) + after


def _marked(table: pd.DataFrame) -> pd.DataFrame:
    """Titles of data sets; a star at what is no exact copy."""

    def title(column: str) -> str:
        dataset, alpha = column.split()
        return f"{dataset}{'' if dataset in EXACT else COPY}, α = {alpha}"

    return table.rename(columns={c: title(c) for c in table.columns if c != "method"})


def _markdown(table: pd.DataFrame) -> list[str]:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return [f"| {' | '.join(row)} |" for row in rows]


def _agreement(results: Sequence[RunResult]) -> str:
    table = beside_logs(results)
    agree, pairs = agreement(table)
    if not pairs:
        return ""
    exact = table[table["dataset"].isin(EXACT)]
    away, allowed = exact["difference"].abs(), exact["margin"]
    least, most = f"{allowed.min():.1f}", f"{allowed.max():.1f}"
    span = most if least == most else f"{least} to {most}"
    return (
        f"Of {pairs} evaluations on exact data that have a logged counterpart, {agree} agree with "
        f"it, by a rule that allows for {span} points, much of which stands for seeds that were "
        f"not run; half of them are within {away.median():.2f} points of it, the furthest "
        f"{away.max():.2f} away."
    )


def _differing(results: Sequence[RunResult]) -> str:
    table = beside_logs(results).query("verdict == 'differs' and dataset in @EXACT")
    told = []
    for (method, reason), rows in table.groupby(["method", "reason"], sort=False):
        places = ", ".join(
            f"{r.dataset} {r.alpha:g} {r.stage} {r.round} {r.difference:+.2f}"
            for r in rows.itertuples()
        )
        told.append(f"{title_of(str(method))} ({places}; {reason})")
    return f"Those that differ: {'; '.join(told)}." if told else ""


def _stages(results: Sequence[RunResult]) -> str:
    table = at_round(results)
    table = table[table["method"].isin(["fedobp", "fedavg"])]
    wide = table.pivot(index=["dataset", "alpha"], columns=["method", "stage"], values="accuracy")
    told = []
    for words, ours, theirs in (
        ("both before local training", "before", "before"),
        ("both after it", "after", "after"),
        ("FedOBP before less FedAvg after", "before", "after"),
    ):
        if {("fedobp", ours), ("fedavg", theirs)} <= set(wide.columns):
            # Not every run is tested after local training, nor at this round.
            difference = (wide["fedobp", ours] - wide["fedavg", theirs]).dropna()
            leads = ", ".join(f"{_cell(*cell)} {value:+.2f}" for cell, value in difference.items())
            told += [f"{words}: {leads}"] if leads else []
    return f"FedOBP less FedAvg, {'; '.join(told)}." if told else ""


def _best(results: Sequence[RunResult]) -> str:
    table = at_round(results).query("method != 'majority-class'")
    told = []
    for (dataset, alpha), rows in table.groupby(["dataset", "alpha"], sort=False):
        if rows["method"].nunique() < TOLD:
            continue
        best = {stage: part.loc[part["accuracy"].idxmax()] for stage, part in rows.groupby("stage")}
        told.append(
            f"{_cell(str(dataset), float(alpha))} {title_of(best['before']['method'])} "
            f"({best['before']['accuracy']:.2f}) and {title_of(best['after']['method'])} "
            f"({best['after']['accuracy']:.2f}), of {rows['method'].nunique()} methods"
        )
    return f"Best before and after local training: {'; '.join(told)}." if told else ""


def _cifar100(results: Sequence[RunResult]) -> str:
    table = cifar100_question(results).query("round == 400")
    table["value"] = table["before"].map("{:.2f}".format) + table["after"].map(
        lambda after: "" if pd.isna(after) else f" ({after:.2f} after local training)"
    )
    ours = table[table["method"] == "fedobp"]
    if ours.empty:
        return ""
    printed = ours["printed"].iloc[0]
    told = [
        f"{row.value} with {row.settings or 'the defaults'}"
        + ("" if pd.isna(row.logged) else f", logged {row.logged:.2f}")
        for row in ours.itertuples()
    ]
    near = int((abs(ours["before"] - printed) <= POINT).sum())
    others = table[table["method"] != "fedobp"]
    return (
        f"FedOBP on CIFAR-100 after 400 rounds: {'; '.join(told)}. Table 1 prints {printed:.2f}: "
        f"{near or 'none'} of them within a point of it. Beside it: "
        f"{'; '.join(others['title'] + ' ' + others['value']) or 'nothing yet'}."
    )


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
    return (
        f"{' and '.join(table['precision'].unique())} beside fp32, all else the same: "
        f"{len(table)} evaluations ({names} on {', '.join(table['dataset'].unique())}), at most "
        f"{table['difference'].abs().max():.2f} points apart."
    )


def _missing(results: Sequence[RunResult]) -> str:
    table = coverage(results)
    missing = table[table["runs"] < table["planned"]]
    if missing.empty:
        return ""
    told = (f"{row.part} {row.runs} of {row.planned}" for row in missing.itertuples())
    return f"{MISSING}: {', '.join(told)}."


def _cell(dataset: str, alpha: float) -> str:
    return f"{dataset}{'' if dataset in EXACT else COPY} {alpha:g}"
