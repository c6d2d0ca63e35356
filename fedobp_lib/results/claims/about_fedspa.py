"""What Huang et al. (2022) claim of FedSpa, and what decides it.

The words are those of their abstract, which names no numbers; the rules are this kit's, written
before any run of notebook 12. One was added then, for fairness: accuracy after local training, as
the abstract does not say which of the two it means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ...runs.sparse_models import DENSITY, FEDAVG, PERSONALIZED, fedspa_at
from ..sparse_models import CELL
from ..sparse_rounds import HELD, MASKS, slope
from ..titles import title_of
from .claim import Claim
from .finding import UNKNOWN, Finding

PAPER = "Huang et al. 2022 (arXiv 2201.11380), abstract"
PLACES = (("notebook", 12),)
RATE = -0.5  # of 1 / sqrt(T), log against log

OURS = fedspa_at(DENSITY)
CHEAP = (
    "... which enables users' models to achieve personalization with cheap communication, "
    "computation, and memory cost."
)
SAVES = (
    "FedSpa significantly saves communication and computation costs, while simultaneously "
    "achieves higher model accuracy ... against several state-of-the-art PFL methods."
)
FASTER = "... and faster convergence speed against several state-of-the-art PFL methods."
OF_ITS_TIME = " and ".join(", ".join(map(title_of, PERSONALIZED)).rsplit(", ", 1))


def fixed_number(frame: pd.DataFrame) -> Finding:
    """From `sparse_rounds.active_frame`: nobody holds more than the budget, and masks keep it."""
    if frame.empty:
        return UNKNOWN
    over = (frame[HELD].max(axis=1) > frame["budget"]).sum()
    sizes = frame.groupby("density")[["kept", "fewest"]].agg(["min", "max"])
    fixed = bool((sizes.max(axis=1) == sizes.min(axis=1)).all())
    densities, rounds = frame["density"].nunique(), len(frame)
    told = f"{densities} densities, {rounds} rounds: {over} above the budget; masks "
    return Finding(told + ("keep their size" if fixed else "change in size"), not over and fixed)


def cheaper(column: str) -> Callable[[pd.DataFrame], Finding]:
    """From `sparse_models.density_table`: at the default density less than FedAvg's."""

    def check(frame: pd.DataFrame) -> Finding:
        if frame.empty or DENSITY not in set(frame["density"]):
            return UNKNOWN
        ratios = frame.groupby("density")[f"relative_{column}"].max()
        told = ", ".join(f"{ratio:.2f} at {density:g}" for density, ratio in ratios.items())
        return Finding(f"times FedAvg's: {told}", bool(ratios[DENSITY] < 1))

    return check


def falls(variant: str) -> Callable[[pd.DataFrame], Finding]:
    """From `sparse_rounds.gradient_frame`: at least as fast as the rate."""

    def check(frame: pd.DataFrame) -> Finding:
        rows = frame[frame["variant"] == variant]
        if len(rows) < 4:
            return UNKNOWN
        steep = slope(rows)
        return Finding(f"slope {steep:.2f} up to round {rows['round'].max()}", steep <= RATE)

    return check


def above(column: str, rivals: Sequence[str]) -> Callable[[pd.DataFrame], Finding]:
    """From `sparse_models.standings`: FedSpa's accuracy is above that of every rival."""

    def compare(table: pd.DataFrame) -> tuple[str, bool]:
        others = table.drop(OURS)[column].dropna().sort_values(ascending=False)
        lead = table.loc[OURS, column] - others.iloc[0] if len(others) else np.inf
        name = title_of(str(others.index[0])) if len(others) else "none"
        return f"{lead:+.2f} points to {name}", bool(lead > 0)

    return _in_every_cell(compare, column, rivals)


def sooner(rivals: Sequence[str]) -> Callable[[pd.DataFrame], Finding]:
    """From `sparse_models.standings`: no rival reaches FedSpa's mark in fewer rounds."""

    def compare(table: pd.DataFrame) -> tuple[str, bool]:
        ours, others = table.loc[OURS, "rounds"], table.drop(OURS)["rounds"].dropna()
        told = f"FedSpa in round {ours:.0f}"
        if others.empty:
            return f"{told}, no other at all", True
        first = f"{title_of(str(others.idxmin()))} in {others.min():.0f}"
        return f"{told}, {first}", bool(ours <= others.min())

    return _in_every_cell(compare, "rounds", rivals)


def _in_every_cell(
    compare: Callable[[pd.DataFrame], tuple[str, bool]], column: str, rivals: Sequence[str]
) -> Callable[[pd.DataFrame], Finding]:
    """One rival that is ahead settles it; for FedSpa only when all rivals were run."""

    def check(frame: pd.DataFrame) -> Finding:
        parts = []
        for (dataset, alpha), panel in frame.groupby(CELL, sort=False):
            table = panel.set_index("line")
            found = [name for name in rivals if name in table.index]
            if not found or OURS not in table.index or pd.isna(table.loc[OURS, column]):
                parts.append(UNKNOWN)
                continue
            told, ahead = compare(table.loc[[OURS, *found]])
            few = "" if len(found) == len(rivals) else f" (of {len(found)} rivals run)"
            holds = False if not ahead else None if few else True
            parts.append(Finding(f"{dataset} {alpha:g}: {told}{few}", holds))
        return Finding.all_of(parts)

    return check


def _cheap(what: str, column: str, note: str = "") -> Claim:
    name = column.replace("_", "-")
    rule = f"at density {DENSITY:g} a client's round takes less than FedAvg's: {what}"
    return Claim(f"cheap-{name}", PLACES, PAPER, CHEAP, rule, cheaper(column), "densities", note)


def _rate(variant: str) -> Claim:
    return Claim(
        f"rate-{variant.replace(' ', '-')}", PLACES, PAPER,
        "We theoretically show that the iterates obtained by FedSpa converge to the local "
        "minimizer of the formulated SPFL problem at rate of O(1/sqrt(T)).",
        "the running mean of the squared norm of the objective's gradient falls over the second "
        f"half of the rounds with a slope of {RATE:g} or less, log against log; {variant}",
        falls(variant), "gradients",
        "A finite run at one learning rate shows no limit, only whether it goes there so far.",
    )  # fmt: skip


BEFORE = "before local training, all clients, pooled, mean over seeds"
CLAIMS = (
    Claim(
        "fixed-number", PLACES, PAPER,
        "FedSpa only maintains a fixed number of active parameters throughout training (aka "
        "sparse-to-sparse training)",
        "in every round no client receives, starts with, ends with or keeps more parameters than "
        "its density allows, and masks keep their size",
        fixed_number, "active",
        "To grow its mask, a client computes the gradient of all parameters once a round.",
    ),
    _cheap("bytes received and sent", "megabytes"),
    _cheap("FLOPs where zeros are skipped", "gflop_sparse"),
    _cheap("FLOPs of a dense machine", "gflop", "A dense machine computes with zeros as well."),
    _cheap("memory where zeros are not stored", "memory_sparse"),
    _cheap("memory of a dense machine", "memory"),
    *map(_rate, MASKS),
    Claim(
        "higher-accuracy", PLACES, PAPER, SAVES,
        f"its best accuracy ({BEFORE}) is above that of each of {OF_ITS_TIME}",
        above("best", PERSONALIZED), "standings",
        "These are the personalized methods of the kit that are older than FedSpa.",
    ),
    Claim(
        "higher-accuracy-after", PLACES, PAPER, SAVES,
        "its accuracy after local training (clients of the round, pooled, mean over the last "
        f"quarter of the rounds and over seeds) is above that of each of {OF_ITS_TIME}",
        above("after", PERSONALIZED), "standings",
        "The clients of a round are the same for all methods.",
    ),
    Claim(
        "same-bytes", PLACES, PAPER, SAVES,
        f"with no more bytes than FedSpa has sent and received at the end, none of {OF_ITS_TIME} "
        f"and FedAvg is as accurate ({BEFORE})",
        above("same_bytes", (FEDAVG, *PERSONALIZED)), "standings",
    ),
    Claim(
        "faster", PLACES, PAPER, FASTER,
        f"none of {OF_ITS_TIME} reaches 95 % of FedSpa's best accuracy ({BEFORE}) in fewer rounds",
        sooner(PERSONALIZED), "standings",
    ),
)  # fmt: skip
