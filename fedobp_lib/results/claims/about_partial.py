"""What Mishchenko et al. (2023) claim of partial personalization, and what decides it.

The words are those of their abstract, which names no numbers; the bounds are this kit's, written
before any run of notebook 11.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from .claim import Claim
from .finding import UNKNOWN, Finding

PAPER = "Mishchenko et al. 2023 (arXiv 2305.18285), abstract"
PLACES = (("notebook", 11),)

FITTED = 1e-3  # nats
UNFITTED = 0.1
LITTLE = 5.0  # percentage points of accuracy

RIGHT = "classifier"
WRONG = ("its bias alone", "nothing (FedAvg)")


def right_split_fits(frame: pd.DataFrame) -> Finding:
    """From `partial.split_losses`."""
    last = frame[frame["round"] == frame["round"].max()].groupby("split")["loss"].max()
    if not {RIGHT, *WRONG} <= set(last.index):
        return UNKNOWN
    told = "; ".join(f"{split}: worst client {last[split]:.2g}" for split in (RIGHT, *WRONG))
    return Finding(told, last[RIGHT] < FITTED and bool((last[list(WRONG)] > UNFITTED).all()))


def bears(panel: str) -> Callable[[pd.DataFrame], Finding]:
    """From a frame of `partial.bearing`: FFGG bears its hardest value, and FedAvg does not."""

    def check(frame: pd.DataFrame) -> Finding:
        parts = [_borne(rows) for _, rows in frame[frame["panel"] == panel].groupby(CELL)]
        return Finding.all_of(parts) if parts else UNKNOWN

    return check


CELL = ["dataset", "alpha"]


def _borne(rows: pd.DataFrame) -> Finding:
    losses, values = {}, (rows["value"].min(), rows["value"].max())
    for name, line in rows.groupby("method"):
        ends = line.set_index("value")["mean"].fillna(0.0)  # diverged: nothing is left
        if set(values) <= set(ends.index):
            losses[name] = ends[values[0]] - ends[values[1]]
    if not {"ffgg", "fedavg"} <= set(losses):
        return UNKNOWN
    first = rows.iloc[0]
    told = (
        f"{first['dataset']}, α = {first['alpha']}: from {values[0]} to {values[1]} "
        f"FFGG loses {losses['ffgg']:.1f} points, FedAvg {losses['fedavg']:.1f}"
    )
    harmless = losses["ffgg"] <= LITTLE
    if harmless and losses["fedavg"] < losses["ffgg"] + LITTLE:
        return Finding(f"{told}: there was little to bear", None)
    return Finding(told, harmless)


def robust(frame: pd.DataFrame) -> Finding:
    """From `partial.byzantine`."""
    parts = [_robust(rows) for _, rows in frame.groupby(CELL)]
    return Finding.all_of(parts) if parts else UNKNOWN


def _robust(rows: pd.DataFrame) -> Finding:
    if not {"ffgg", "fedavg"} <= set(rows["method"]) or set(rows["attack"]) == {"none"}:
        return UNKNOWN
    left = {}
    for name in ("ffgg", "fedavg"):
        own = rows[rows["method"] == name].fillna({"mean": 0.0})
        free = own.query("attack == 'none' and aggregator == 'mean'")["mean"].item()
        best = own.query("attack != 'none' and aggregator != 'mean'")
        best = best.groupby(["attack", "share"])["mean"].max()
        left[name] = free - best
    first = rows.iloc[0]
    worst = {name: losses.max() for name, losses in left.items()}
    told = (
        f"{first['dataset']}, α = {first['alpha']}: with the best robust aggregator, FFGG loses at "
        f"most {worst['ffgg']:.1f} points to an attack, FedAvg {worst['fedavg']:.1f}"
    )
    harmless = worst["ffgg"] <= LITTLE
    if harmless and worst["fedavg"] <= LITTLE:
        return Finding(f"{told}: there was little to bear", None)
    return Finding(told, harmless)


CURSE = "it breaks the curse of data heterogeneity in several settings, such as"
BEARS = (
    f"at the {{}}, FFGG loses at most {LITTLE:g} points of accuracy, and FedAvg at least "
    f"{LITTLE:g} more; where FedAvg does not, it cannot be told"
)

PARTIAL_CLAIMS = (
    Claim(
        id="right-split",
        places=PLACES,
        section=PAPER,
        text="under the right split of parameters, it is possible to find global parameters that "
        "allow each client to fit their data perfectly",
        holds_when=f"with a local classifier every client's training loss ends below {FITTED:g} "
        f"nats; with its bias alone, and with FedAvg, the worst client's above {UNFITTED:g}",
        check=right_split_fits,
        evidence="splits",
        note="On a problem made for it: the same digits under other names on every client.",
    ),
    Claim(
        id="local-steps",
        places=PLACES,
        section=PAPER,
        text=f"{CURSE} training with local steps",
        holds_when=BEARS.format("same local work, from 1 to 20 local epochs"),
        check=bears("equal local work"),
        evidence="local_steps",
    ),
    Claim(
        id="asynchrony",
        places=PLACES,
        section=PAPER,
        text=f"{CURSE} ... asynchronous training",
        holds_when=BEARS.format("same rounds, from no delay to 10 rounds"),
        check=bears("late uploads"),
        evidence="delays",
    ),
    Claim(
        id="byzantine",
        places=PLACES,
        section=PAPER,
        text=f"{CURSE} ... Byzantine-robust training",
        holds_when="with the best robust aggregator for each attack, FFGG loses at most "
        f"{LITTLE:g} points to the runs without attack, and FedAvg more; where FedAvg does not, "
        "it cannot be told",
        check=robust,
        evidence="byzantine",
    ),
)
