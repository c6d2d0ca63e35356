"""The runs of notebook 11: what Mishchenko et al. (2023) claim partial personalization bears.

FFGG is their algorithm; FedAvg, which personalizes nothing, is the control, and FedPer, which has
the same local part but does not fine-tune it first, stands between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from ..config import LARGEST, RunConfig
from ..methods import find_method
from .presets import PRESETS, grid, listed

METHODS = ("ffgg", "fedper", "fedavg")
CONTROLLED = ("ffgg", "fedavg")
LOCAL_EPOCHS = (1, 5, 20)
DELAYS = (0, 5, 10)
AGGREGATORS = ("mean", "median", "trimmed", "clipping")
KINDS = ("sign_flip", "noise", "label_flip")

# Each question has rounds of its own: delays need many, as nothing is late at first.
ROUNDS = {
    "smoke": {"local_steps": 2, "delays": 4, "byzantine": 2},
    "quick": {"local_steps": 8, "delays": 24, "byzantine": 12},
    "paper": {"local_steps": 100, "delays": 200, "byzantine": 100},
}
# Of the clients, those that are Byzantine.
SHARES = {"smoke": (0.2,), "quick": (0.2,), "paper": (0.1, 0.2, 0.3)}
# Few clients, of which many take part, so that a cohort holds about its share of attackers; and one
# local epoch, so that attacks are all that there is to bear.
CROWDED: dict[str, Any] = {"clients": 10, "participation": 0.6, "local_epochs": 1}
# Accuracy in the last round is all that is looked at.
AT_THE_END: dict[str, Any] = {"eval_every": LARGEST, "eval_after": "never"}


def partial_questions(preset: str = "quick", **given: Any) -> dict[str, list[RunConfig]]:
    """The runs of each question; see `presets.grid` for the parameters.

    - `local_steps`: local epochs, at equal rounds and at equal local work in all.
    - `delays`: late uploads.
    - `byzantine`: attacks, without and with robust aggregators.

    Args:
        preset: `smoke` and `quick` are one seed; `paper` is CIFAR10 and MNIST at the smaller alpha.
        given: what is given wins; of `methods` those count that have a part in a question.
    """
    size = preset if preset in ROUNDS or preset not in PRESETS else "paper"
    own: dict[str, Any] = {"seeds": (0,)}
    if size == "paper":
        own = {"datasets": ("mnist", "cifar10"), "alphas": (0.1,)}
    given = {name: value for name, value in given.items() if value is not None}
    asked = listed(given.pop("methods", None), "methods")
    for name in asked or ():
        find_method(name)
    rounds = given.pop("rounds", None)

    def base(question: str, methods: Sequence[str]) -> list[RunConfig]:
        chosen = [name for name in methods if asked is None or name in asked]
        often = ROUNDS.get(size, {}).get(question)
        values = own | given | {"rounds": often if rounds is None else rounds}
        return [c for c in grid(preset, **values, methods=METHODS) if c.method in chosen]

    return {
        "local_steps": [
            replace(config, local_epochs=epochs, rounds=count, **AT_THE_END)
            for config in base("local_steps", CONTROLLED)
            for epochs in LOCAL_EPOCHS
            for count in dict.fromkeys([config.rounds, equal_work(config.rounds, epochs)])
        ],
        "delays": [
            replace(config, delays=delays, **AT_THE_END)
            for config in base("delays", CONTROLLED)
            for delays in DELAYS
        ],
        "byzantine": [
            replace(config, byzantine=attack, aggregator=aggregator, **CROWDED | AT_THE_END)
            for config in base("byzantine", METHODS)
            for attack in ("none", *attacks(size))
            for aggregator in AGGREGATORS
        ],
    }


def attacks(size: str) -> list[str]:
    """The attacks at a preset, each of strength 1."""
    kinds = KINDS[:1] if size == "smoke" else KINDS
    return [f"{kind}:{share}" for kind in kinds for share in SHARES.get(size, ())]


def equal_work(rounds: int | None, epochs: int) -> int:
    """Rounds of so many local epochs that are as much work as `rounds` of 5."""
    return max(1, round((rounds or 1) * 5 / epochs))


def partial_runs(preset: str = "quick", **given: Any) -> list[RunConfig]:
    """Notebook 11: all runs of `partial_questions`."""
    return list(chain.from_iterable(partial_questions(preset, **given).values()))
