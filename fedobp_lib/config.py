"""All settings of a run in one place, and the two protocols."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .errors import UserError, unknown
from .methods import find_method, make_settings
from .training import PRECISIONS

# Raised whenever a change of the code changes results, so that old runs are not taken for new.
RESULTS_VERSION = 1

# What the paper's text leaves open or says otherwise than its authors' code and logs. The
# published tables were made with `released`.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "released": {
        "momentum": 0.7,
        "test_share": 0.25,
        "quantile_rule": "linear",
        "pixels": "benchmark",
    },
    "text": {
        "momentum": 0.0,
        "test_share": 0.5,
        "quantile_rule": "inverted_cdf",
        "pixels": "data",
    },
}

# The paper's setting, and a smaller one for the embedded data set of 1,797 images.
PAPER_SIZE = {"clients": 100, "participation": 0.1, "rounds": 400}
SMALL_SIZE = {"clients": 20, "participation": 0.2, "rounds": 40}

EVAL_AFTER = ("final", "always", "never")


@dataclass(frozen=True)
class RunConfig:
    """One run: a method on a data set with one seed. None means: take the default described.

    Attributes:
        method: name of a registered method.
        dataset: name of a data set.
        model: `avgcnn` or `resnet18`.
        pretrained: start from ImageNet weights (resnet18).
        alpha: concentration of the Dirichlet split.
        clients: number of clients; None: 100 (20 for digits), or the partition file's.
        participation: share of the clients in each round; None: 0.1 (0.2 for digits).
        rounds: communication rounds; None: 400 (40 for digits).
        local_epochs: passes over its data a client makes in a round.
        batch_size: samples in a step.
        lr: learning rate of SGD.
        momentum: of SGD, starting anew each round; None: the protocol's.
        precision: `fp32`, `tf32` (on a GPU) or `bf16` (autocast) in forward and backward passes.
        seed: of initial weights, cohorts and batch orders, not of the split.
        protocol: `released` (what the authors ran) or `text` (what the paper says).
        test_share: share of each client's data used for testing; None: the protocol's.
        min_samples: smallest client; the Dirichlet draw is repeated until it holds.
        pixels: `benchmark` (the mean and std of the benchmark behind the paper) or `data`
            (measured on the training part); None: the protocol's.
        partition: path of a partition file to use instead of a draw.
        partition_seed: seed of the Dirichlet draw; the paper keeps one split throughout.
        eval_every: all clients are tested every so many rounds and after the last; None: a
            quarter of the rounds.
        eval_after: when all clients are also tested after local training (fine-tuning):
            `final` round, `always` with `eval_every`, or `never`.
        settings: the method's own hyperparameters, by name.
    """

    method: str = "fedobp"
    dataset: str = "digits"
    model: str = "avgcnn"
    pretrained: bool = False
    alpha: float = 0.1
    clients: int | None = None
    participation: float | None = None
    rounds: int | None = None
    local_epochs: int = 5
    batch_size: int = 32
    lr: float = 0.01
    momentum: float | None = None
    precision: str = "fp32"
    seed: int = 0
    protocol: str = "released"
    test_share: float | None = None
    min_samples: int = 10
    pixels: str | None = None
    partition: str | None = None
    partition_seed: int = 0
    eval_every: int | None = None
    eval_after: str = "final"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def resolved(self) -> RunConfig:
        """A copy without None where a default is known, checked.

        The number of clients of a partition file is known only when it is read.

        Raises:
            UserError: a value that cannot be used.
        """
        if self.protocol not in PROTOCOLS:
            raise unknown("protocol", self.protocol, PROTOCOLS)
        size = SMALL_SIZE if self.dataset == "digits" else PAPER_SIZE
        if self.partition is not None:
            size = {**size, "clients": None}
        defaults = {**size, **PROTOCOLS[self.protocol]}
        defaults.pop("quantile_rule")
        filled = {k: v for k, v in defaults.items() if getattr(self, k) is None}
        config = replace(self, **filled)
        method = find_method(config.method)
        config = replace(config, settings=asdict(make_settings(method, config.settings)))
        config.check()
        if config.eval_every is None:
            config = replace(config, eval_every=max(1, config.rounds // 4))
        return config

    def check(self) -> None:
        """Raise UserError, in one line, for the first value out of range."""
        for name in ("alpha", "lr"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be greater than 0, got {value}")
        for name in ("rounds", "local_epochs", "batch_size", "clients", "eval_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if self.clients is not None and self.min_samples < 2:
            raise UserError(f"min_samples must be at least 2, got {self.min_samples}")
        if not 0 < self.participation <= 1:
            raise UserError(
                f"participation must lie in (0, 1], got {self.participation}: the cohort cannot "
                "be empty or larger than the number of clients"
            )
        if not 0 <= self.momentum < 1:
            raise UserError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not 0 < self.test_share < 1:
            raise UserError(f"test_share must lie between 0 and 1, got {self.test_share}")
        if self.seed < 0 or self.partition_seed < 0:
            raise UserError("seeds must not be negative")
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.eval_after not in EVAL_AFTER:
            raise unknown("eval_after", self.eval_after, EVAL_AFTER)
        if self.pixels not in ("benchmark", "data"):
            raise unknown("pixels", self.pixels, ("benchmark", "data"))

    def cohort_size(self, clients: int) -> int:
        """Clients in a round, at least one."""
        return max(1, round(clients * self.participation))
