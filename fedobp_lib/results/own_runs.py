"""The kit's own runs on real images, beside what the paper's authors logged at the same round.

The runs are those of `runs.round100`, as `kept_runs` reads them from the repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from .. import paths
from ..config import RunConfig
from ..methods import METHODS
from ..paper.deviations import KNOWN_DIFFERENCES
from ..paper.logged import logged_normalizations
from ..paper.published import published_accuracy
from ..runs.presets import grid, listed
from ..runs.round100 import CIFAR100, CIFAR100_WORDS, PRESET, WORDS, parts
from ..runs.store import RunResult
from .compare_logged import compare_logged
from .kept_runs import KeptRun, kept_results, own_settings
from .titles import title_of

CELL = ["dataset", "alpha"]
EXACT = ("mnist", "fmnist", "cifar100")  # the other one was compressed again
COPY = "*"  # marks a data set that is no exact copy
NO_REASON = "none known"
QUESTION = [
    "method", "title", "what", "settings", "round", "before", "after", "logged", "logged_after",
    "logged_as", "printed",
]  # fmt: skip


def own_runs() -> list[KeptRun]:
    """The runs that the repository keeps in `figures/round100/`.

    Raises:
        UserError: the files are not there, or not as they were written.
    """
    return kept_results(paths.kept_dir(PRESET))


def chosen(
    results: Sequence[RunResult],
    datasets: Any = None,
    alphas: Any = None,
    methods: Any = None,
    seeds: Any = None,
) -> list[RunResult]:
    """Those of the runs that a notebook's parameters name; None: all.

    Raises:
        UserError: text that is no list, an empty list, or a value of the wrong type.
    """
    wanted = {"dataset": datasets, "alpha": alphas, "method": methods, "seed": seeds}
    lists = {name: listed(value, name + "s") for name, value in wanted.items()}
    return [
        result
        for result in results
        if all(v is None or getattr(result.config, name) in v for name, v in lists.items())
    ]


def on_exact(results: Sequence[RunResult]) -> list[RunResult]:
    """Those of the runs whose data are exactly the logged runs'."""
    return [result for result in results if result.config.dataset in EXACT]


def marked(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a star at each data set that is no exact copy."""
    return frame.assign(dataset=[starred(dataset) for dataset in frame["dataset"]])


def starred(dataset: str) -> str:
    """The name of a data set, with a star if it is no exact copy."""
    return dataset if dataset in EXACT else dataset + COPY


def coverage(results: Sequence[RunResult]) -> pd.DataFrame:
    """How much of each part of `round100.parts` is there: part, what, runs, planned."""
    have = [result.config for result in results]
    return pd.DataFrame(
        [
            {
                "part": name,
                "what": WORDS[name],
                "runs": sum(run.resolved() in have for run in runs),
                "planned": len(runs),
            }
            for name, runs in parts().items()
        ]
    )


def as_logged(results: Sequence[RunResult]) -> list[RunResult]:
    """Those of the runs that have the settings of the logged ones, at momentum 0.7."""
    return [result for result in results if _is_as_logged(result)]


def _is_as_logged(result: RunResult) -> bool:
    config = result.config
    [same] = grid(PRESET, [config.dataset], [config.alpha], [config.method], [config.seed])
    known = same.resolved()
    return (config.settings, config.momentum) == (known.settings, known.momentum)


def beside_logs(results: Sequence[RunResult]) -> pd.DataFrame:
    """Every evaluation of ours with a logged counterpart.

    Returns:
        The columns of `compare_logged`, less what was not logged, and `reason`: for one that
        differs, how the benchmark behind the paper is known to depart from the method, or
        `none known`; else empty.
    """
    table = compare_logged(as_logged(results)).query("verdict != 'not logged'")
    known = table["method"].map(KNOWN_DIFFERENCES).fillna(NO_REASON)
    return table.assign(reason=np.where(table["verdict"] == "differs", known, ""))


def agreement(table: pd.DataFrame) -> tuple[int, int]:
    """How many pairs of `beside_logs` on exact data sets agree, and of how many."""
    exact = table[table["dataset"].isin(EXACT)]
    return int((exact["verdict"] == "agrees").sum()), len(exact)


def at_round(results: Sequence[RunResult], round_: int = 100) -> pd.DataFrame:
    """Accuracies of the runs with logged settings after so many rounds, mean over seeds.

    Returns:
        dataset, alpha, method, round, stage, accuracy (percent, all clients, pooled), logged (NaN:
        not).
    """
    return _accuracies(results).query("round == @round_")


def at_last(results: Sequence[RunResult]) -> pd.DataFrame:
    """Like `at_round`, in the last round of each run."""
    table = _accuracies(results)
    last = table.groupby([*CELL, "method"])["round"].transform("max")
    return table[table["round"] == last]


def _accuracies(results: Sequence[RunResult]) -> pd.DataFrame:
    table = compare_logged(as_logged(results)).rename(columns={"mean": "accuracy"})
    return table[[*CELL, "method", "round", "stage", "accuracy", "logged"]]


def main_table(results: Sequence[RunResult], round_: int = 100) -> pd.DataFrame:
    """The main table: a row a method, for each data set and alpha `ours (logged)`, in percent.

    All clients, pooled, after `round_` rounds, mean over seeds; before local training, and of
    FedAvg `+ fine-tuning` after it. A dash: not run, or in brackets, not logged. The rows are in
    the order of the first column, those without it in that of the next.
    """
    table = at_round(results, round_).query("stage == 'before' or method == 'fedavg'")
    titles = table["method"].map(title_of)
    table = table.assign(
        row=titles.where(table["stage"] == "before", titles + " + fine-tuning"),
        column=table["dataset"] + " " + table["alpha"].map("{:g}".format),
        cell=[
            f"{row.accuracy:.2f} ({'-' if np.isnan(row.logged) else f'{row.logged:.2f}'})"
            for row in table.itertuples()
        ],
    )
    planned = [f"{run.dataset} {run.alpha:g}" for run in grid(PRESET, methods=["fedavg"])]
    columns = [name for name in planned if name in set(table["column"])]
    cells, numbers = (
        table.pivot(index="row", columns="column", values=name)[columns]
        for name in ("cell", "accuracy")
    )
    if columns:
        cells = cells.loc[numbers.sort_values(columns, ascending=False).index].fillna("-")
    return cells.rename_axis(index="method", columns=None).reset_index()


def cifar100_question(results: Sequence[RunResult]) -> pd.DataFrame:
    """Which FedOBP gives the 50.37 that Table 1 prints for CIFAR-100 at alpha 0.1?

    Returns:
        One row a run and evaluation: method, title, what (which FedOBP), settings, round, before,
        after (percent, all clients, pooled; `after` is of the last round), logged and logged_after
        (of the run with these settings), logged_as (which run that is), printed (of Table 1).
    """
    runs = [r for r in results if r.config.dataset == "cifar100" and r.config.alpha == 0.1]
    printed = published_accuracy().query("dataset == 'cifar100' and alpha == 0.1")
    printed = printed.set_index("method")["accuracy_mean_percent"]
    main = compare_logged(as_logged(runs)).set_index(["method", "round", "stage"])["logged"]
    ablation = logged_normalizations().query(
        "dataset == 'cifar100' and normalization == 'global' and alpha == 0.1"
    )
    ablation = ablation.set_index("round")["accuracy"]
    rows = []
    for result in runs:
        method, what = result.config.method, _which(result)
        every = result.history.query("scope == 'all' and average == 'pooled'")
        wide = every.pivot(index="round", columns="stage", values="accuracy")
        for round_, values in wide.iterrows():
            theirs, tuned, which = np.nan, np.nan, ""
            if _is_as_logged(result) and (method, round_, "before") in main.index:
                theirs, which = main[method, round_, "before"], "main run"
                tuned = main.get((method, round_, "after"), np.nan)
            elif method == "fedobp" and result.config.settings["score"] == "saliency":
                theirs, which = ablation.get(round_, np.nan), "ablation"
            rows.append(
                {
                    "method": method,
                    "title": METHODS[method].title,
                    "what": what,
                    "settings": own_settings(result.config),
                    "round": round_,
                    "before": values["before"],
                    "after": values.get("after", np.nan),
                    "logged": theirs,
                    "logged_after": tuned,
                    "logged_as": which if not np.isnan(theirs) else "",
                    "printed": printed[method],
                }
            )
    return pd.DataFrame(rows, columns=QUESTION)


def _which(result: RunResult) -> str:
    """Which of the three FedOBPs on CIFAR-100 a run is; of other methods, nothing."""
    config = result.config
    for settings, words in zip(CIFAR100, CIFAR100_WORDS, strict=True):
        same = RunConfig(method="fedobp", dataset="cifar100", settings=settings).resolved()
        if config.method == "fedobp" and config.settings == same.settings:
            return words
    return ""
