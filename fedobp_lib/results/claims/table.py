"""The paper's claims beside what finished runs say to them.

Only runs on the paper's data sets test a claim. Where there are none, but runs on other data that
the claim can be measured on, the verdict is `other data`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pandas as pd

from ...paper.published import published_accuracy, published_normalizations, published_resnet18
from ...runs.experiments import find_experiment
from ...runs.presets import PAPER_DATASETS
from ...runs.store import RunResult
from ..compare import measured, measured_normalizations
from ..departures import setting_of
from ..logged import logged_results
from . import convergence, layers, normalization, scores, training
from .accuracy import Means
from .claim import Claim
from .finding import Finding
from .statements import CLAIMS

HOLDS, FAILS, UNDECIDED, NOT_RUN = "holds", "does not hold", "undecided", "not run"
OTHER_DATA = "other data"


def claims_table(results: Sequence[RunResult], kind: str, number: int) -> pd.DataFrame:
    """The paper's claims about one table or figure, and what finished runs say to them.

    Args:
        results: finished runs of the experiment behind it; see `experiments.find_experiment`.
        kind: `table` or `figure`.
        number: as the paper counts.

    Returns:
        id, section, claim, holds_when, published (the claim tested on the paper's own printed
        table; empty for figures), logged (on what its authors logged; empty where they did not),
        measured, verdict (`holds`, `does not hold`, `undecided`:
        too little was run, `not run`, `other data`: measured, but on data sets that the paper
        does not have), setting (how the runs depart from the paper's), note. Empty if the paper
        claims nothing about it that is listed here.

    Raises:
        UserError: the paper has no such table or figure.
    """
    experiment, _ = find_experiment(kind, number)
    of_paper = [result for result in results if result.config.dataset in PAPER_DATASETS]
    results = of_paper or results
    setting = setting_of(results, experiment.runs) if experiment.runs else ""
    claims = [claim for claim in CLAIMS if (kind, number) in claim.places]
    evidence = {name: EVIDENCE[name](results) for name in {claim.evidence for claim in claims}}
    rows = []
    for claim in claims:
        finding = claim.check(evidence[claim.evidence])
        tested = of_paper or not finding.measured
        rows.append(
            {
                "id": claim.id,
                "section": claim.section,
                "claim": claim.text,
                "holds_when": claim.holds_when,
                "published": on_published(claim),
                "logged": on_logged(claim),
                "measured": finding.measured,
                "verdict": verdict(finding) if tested else OTHER_DATA,
                "setting": setting if finding.measured else "",
                "note": claim.note,
            }
        )
    columns = ["id", "section", "claim", "holds_when", "published", "logged", "measured"]
    return pd.DataFrame(rows, columns=[*columns, "verdict", "setting", "note"])


def claims_about(results: Sequence[RunResult], *parts: tuple[str, int]) -> pd.DataFrame:
    """`claims_table` of several tables and figures, such as `("table", 8)`; each claim once."""
    frames = [claims_table(results, kind, number) for kind, number in parts]
    return pd.concat(frames, ignore_index=True).drop_duplicates("id", ignore_index=True)


def verdict(finding: Finding) -> str:
    """A finding in a word."""
    if finding.holds is None:
        return UNDECIDED if finding.measured else NOT_RUN
    return HOLDS if finding.holds else FAILS


def on_published(claim: Claim) -> str:
    """A claim tested on the numbers that the paper prints; empty where it prints none."""
    if claim.evidence not in PRINTED:
        return ""
    finding = claim.check(PRINTED[claim.evidence]())
    return "" if finding.holds is None else f"{verdict(finding)}: {finding.measured}"


def on_logged(claim: Claim) -> str:
    """A claim tested on what the paper's authors logged; empty where nothing of it was."""
    if claim.evidence not in LOGGED:
        return ""
    finding = claim.check(_logged_evidence(claim.evidence))
    return f"{verdict(finding)}: {finding.measured}" if finding.measured else ""


@cache
def _logged_evidence(name: str) -> Any:
    return EVIDENCE[name](logged_results(LOGGED[name]))


def _means(results: Sequence[RunResult]) -> Means:
    return _by_cell(measured(results), "method", "accuracy")


def _normalization_means(results: Sequence[RunResult]) -> Means:
    return _by_cell(measured_normalizations(results), "normalization", "accuracy")


def _by_cell(frame: pd.DataFrame, key: str, value: str) -> Means:
    return frame.groupby(["dataset", "alpha", key], sort=False)[value].mean().to_dict()


EVIDENCE = {
    "accuracy": _means,
    "stages": training.stages,
    "resnet18": _means,
    "normalization": _normalization_means,
    "normalization_layers": normalization.picked,
    "curves": convergence.curves,
    "scores": scores.score_curves,
    "layers": layers.layer_shares,
}
# The kinds that the authors logged, and in which experiment; see `logged.logged_results`.
LOGGED = {
    "accuracy": "accuracy",
    "stages": "accuracy",
    "normalization": "normalization",
    "curves": "accuracy",
    "scores": "scores",
    "layers": "layers",
}
# The kinds that the paper prints.
PRINTED: dict[str, Callable[[], Any]] = {
    "accuracy": lambda: _by_cell(published_accuracy(), "method", "accuracy_mean_percent"),
    "stages": training.printed_stages,
    "resnet18": lambda: _by_cell(published_resnet18(), "method", "accuracy_percent"),
    "normalization": lambda: _by_cell(
        published_normalizations(), "normalization", "accuracy_percent"
    ),
}
