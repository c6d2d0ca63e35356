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
    "quick": {"local_steps": 8, "delays": 24, "byzantine": 6},
    "paper": {"local_steps": 100, "delays": 200, "byzantine": 100},
}
# Of the clients, those that are Byzantine.
SHARES = {"smoke": (0.2,), "quick": (0.2,), "paper": (0.1, 0.2, 0.3)}
# All clients in every round: else fewer rounds would also reach fewer of them, and an untrained
# local part says nothing of local steps; and a cohort would hold more attackers, or fewer, than its
# share.
EVERYONE: dict[str, Any] = {"clients": 10, "participation": 1.0}
FEW_IMAGES: dict[str, Any] = {"test_share": 0.8, "batch_size": 10}
# Presets at which time is short: most images are for tests, and small batches make the most of few.
SHORT = ("smoke", "quick")
# FFGG whose server's steps are too small to change a number: what fine-tuned classifiers reach
# alone, on a body that nobody trains. Neither delays nor attacks touch it.
STILL: dict[str, Any] = {"variant": "gradient", "server_lr": 1e-30}
# Accuracy in the last round is all that is looked at.
AT_THE_END: dict[str, Any] = {
    "eval_every": LARGEST, "eval_after": "never", "eval_cohort": LARGEST,
}  # fmt: skip


def partial_questions(preset: str = "quick", **given: Any) -> dict[str, list[RunConfig]]:
    """The runs of each question; see `presets.grid` for the parameters.

    - `local_steps`: local epochs, at equal local work in all and at equal rounds.
    - `delays`: late uploads.
    - `byzantine`: attacks, without and with robust aggregators.

    The last two have FFGG with a body that nobody trains (`STILL`) as a second control. Where time
    is `SHORT`, local epochs are at equal work alone, and FedPer is not attacked.

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

    short = size in SHORT
    at_the_end = AT_THE_END | (FEW_IMAGES if short else {})
    everyone = EVERYONE | at_the_end
    attacked = CONTROLLED if short else METHODS
    return {
        "local_steps": [
            replace(config, local_epochs=epochs, rounds=count, **everyone)
            for config in base("local_steps", CONTROLLED)
            for epochs in LOCAL_EPOCHS
            for count in dict.fromkeys(
                [equal_work(config.rounds, epochs)] + ([] if short else [config.rounds])
            )
        ],
        "delays": [
            replace(config, delays=delays, **at_the_end)
            for config in base("delays", CONTROLLED)
            for delays in DELAYS
        ]
        + [replace(c, settings=STILL, **at_the_end) for c in base("delays", CONTROLLED[:1])],
        "byzantine": [
            # One local epoch, so that attacks are all that there is to bear.
            replace(config, byzantine=attack, aggregator=aggregator, local_epochs=1, **everyone)
            for config in base("byzantine", attacked)
            for attack in ("none", *attacks(size))
            for aggregator in AGGREGATORS
        ]
        + [
            replace(config, settings=STILL, local_epochs=1, **everyone)
            for config in base("byzantine", CONTROLLED[:1])
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
