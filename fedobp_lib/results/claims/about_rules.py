"""What notebook 13 asks of rules and controls. These are the kit's own sentences, tested like the
paper's; the evidence is `rules.variant_runs`.

Nothing is told of fewer than `SEEDS` seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from ..rules import MARGIN, TUNED, in_table_5, paired, worst
from .claim import Claim
from .finding import UNKNOWN, Finding

SEEDS = 3
UNTUNED = ("knee", "held_out", "count", "layers")


def near_tuned(runs: pd.DataFrame, variants: tuple[str, ...]) -> Finding:
    """One of these rules is at most `MARGIN` behind Table 5's quantile wherever they were run."""
    found = worst(runs, variants)
    if found.empty:
        return UNKNOWN
    best = found.iloc[0]
    told = f"{best['variant']}: {best['difference']:+.2f} at worst, on {best['dataset']}"
    if not in_table_5(runs):
        return Finding(f"{told}; not all data sets are in Table 5")
    enough = found["seeds"].min() >= SEEDS
    return Finding(told, bool(best["difference"] >= -MARGIN) if enough else None)


def ahead(runs: pd.DataFrame, variant: str, against: str, **stages: str) -> Finding:
    """The interval of the paired difference is above 0 on every data set; it is not on one where it
    is nowhere above 0; else it cannot be told."""
    found = paired(runs, variant, against, **stages)
    if found.empty:
        return UNKNOWN
    told = "; ".join(
        f"{r.dataset} {r.alpha:g}: {r.difference:+.2f} ({r.low:+.2f} to {r.high:+.2f})"
        if r.seeds > 1 else f"{r.dataset} {r.alpha:g}: {r.difference:+.2f}"
        for r in found.itertuples()
    )  # fmt: skip
    if found["seeds"].min() < SEEDS:
        return Finding(told)
    if (found["high"] <= 0).any():
        return Finding(told, False)
    return Finding(told, True if (found["low"] > 0).all() else None)


def _claim(
    id: str, text: str, holds_when: str, check: Callable[..., Finding], note: str = "", **given: Any
) -> Claim:
    places = (("notebook", 13),)
    checked = partial(check, **given)
    return Claim(id, places, "not in the paper", text, holds_when, checked, "rules", note)


def _ahead(id: str, text: str, variant: str, against: str, note: str = "", **stages: str) -> Claim:
    when = (
        f"{variant} less {against}: the 95 % interval over seeds is above 0 on every data set run; "
        "undecided where it contains 0"
    )
    return _claim(id, text, when, ahead, note, variant=variant, against=against, **stages)


RULE_CLAIMS = (
    _claim(
        "no-tuned-quantile",
        "A quantile tuned for each data set is not needed.",
        f"one of {', '.join(UNTUNED)} is at most {MARGIN} points behind Table 5's quantile on "
        "every data set run, on average over seeds",
        near_tuned,
        variants=UNTUNED,
    ),
    _claim(
        "one-quantile",
        "One quantile does for all data sets.",
        f"fixed is at most {MARGIN} points behind Table 5's on every data set run",
        near_tuned,
        variants=("fixed",),
    ),
    _ahead("score-matters", "The score matters.", "fixed", "random", "At equal counts."),
    _ahead(
        "score-within-classifier",
        "The score does more than point at the classifier.",
        "fixed", "random_classifier", "At equal counts.",
    ),
    _ahead(
        "beyond-biases",
        "The score finds more than the classifier's biases.",
        "as_biases", "biases", "At equal counts.",
    ),
    _ahead(
        "beyond-last-layer",
        "Single parameters are better than the whole classifier.",
        TUNED, "fedper",
    ),
    _ahead(
        "beyond-last-layer-equal",
        "So they are where they are as many.",
        "as_fedper", "fedper", "At equal counts.",
    ),
    _ahead(
        "taylor-better",
        "The true first-order term is a better score than the squared distance.",
        "taylor", "fixed",
    ),
    _ahead("soft-better", "A soft merge is better than a hard one.", "soft", "fixed"),
    _ahead(
        "beyond-tuned-fedavg",
        "FedOBP before local training is better than FedAvg after it.",
        TUNED, "fedavg",
        "FedAvg after one round of local training, all clients.",
        stage="before", other="after",
    ),
)  # fmt: skip
