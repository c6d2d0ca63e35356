"""All settings of a run in one place: as the user gives them, and with every default filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any

import torch

from .data.partition import Partition
from .errors import UserError, unknown
from .methods import Aggregator, Attack, check_options, find_method, make_settings
from .paper.protocols import PROTOCOLS
from .training.backends import choose_device
from .training.precision import AUTO, PRECISIONS, best_precision
from .typed import added, as_declared, declared

# Raised whenever a change of the code changes results, so that old runs are not taken for new.
RESULTS_VERSION = 1


@dataclass(frozen=True)
class Size:
    """How many clients, the share of them in a round, and communication rounds."""

    clients: int
    participation: float
    rounds: int


# The paper's setting, and a smaller one for the embedded data set of 1,797 images.
PAPER_SIZE = Size(clients=100, participation=0.1, rounds=400)
SMALL_SIZE = Size(clients=20, participation=0.2, rounds=40)

EVAL_AFTER = ("final", "always", "never")
COUNTS = ("rounds", "local_epochs", "batch_size", "clients", "eval_every", "eval_cohort")
LONGEST_DELAY = 100  # rounds; what is under way takes memory for as many
LARGEST = 2**63 - 1  # a whole number that tables can hold


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
        precision: `fp32`, `tf32` (on a GPU) or `bf16` (autocast) in forward and backward passes;
            `auto`: bf16 where the device has the instructions, else fp32.
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
        eval_cohort: the clients of a round are tested, before and after their training, every so
            many rounds and in the last.
        aggregator: what the server makes of the clients' models: `mean`, `median`,
            `trimmed[:SHARE]` or `clipping[:RADIUS]`, see `methods.aggregators`.
        byzantine: `none`, or clients that do harm, as `KIND:SHARE[:STRENGTH]` with the kinds
            `sign_flip`, `noise` and `label_flip`, see `methods.adversaries`; only the others are
            measured.
        delays: the most rounds after which what a client sends arrives, see `methods.post`.
        settings: the method's own hyperparameters, by name.

    Raises:
        UserError: a value that is not of the field's type and cannot be read as one.
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
    eval_cohort: int = added(1)
    aggregator: str = added("mean")
    byzantine: str = added("none")
    delays: int = added(0)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, hint in declared(type(self)).items():
            object.__setattr__(self, name, as_declared(name, getattr(self, name), hint))
        if not isinstance(self.settings, Mapping):
            raise UserError(f"settings must be given by name, got {self.settings!r}")

    def resolved(self, device: str | torch.device = "auto") -> ResolvedConfig:
        """The same run with every default filled in, checked.

        This is done once, where a configuration comes in; whatever computes with it takes a
        `ResolvedConfig`. A partition file is read here, as it decides the number of clients.

        Args:
            device: where it will be computed, which decides what the precision `auto` is.

        Raises:
            UserError: a value that cannot be used.
        """
        if isinstance(self, ResolvedConfig):
            return self
        if self.protocol not in PROTOCOLS:
            raise unknown("protocol", self.protocol, PROTOCOLS)
        protocol = PROTOCOLS[self.protocol]
        size = SMALL_SIZE if self.dataset == "digits" else PAPER_SIZE
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        defaults = asdict(size) | {n: protocol[n] for n in ("momentum", "test_share", "pixels")}
        values |= {name: value for name, value in defaults.items() if values[name] is None}
        method = find_method(self.method)
        values["settings"] = asdict(make_settings(method, self.settings))
        # Each is written in one way only, so that it has one id.
        values["aggregator"] = str(Aggregator.parse(self.aggregator))
        values["byzantine"] = str(Attack.parse(self.byzantine) or "none")
        if values["precision"] == AUTO:
            values["precision"] = best_precision(choose_device(str(device)))
        if values["eval_every"] is None:
            values["eval_every"] = max(1, values["rounds"] // 4)
        if self.partition is not None:
            split = Partition.load(self.partition)
            if self.clients not in (None, split.clients):
                raise UserError(
                    f"partition file {self.partition!r} has {split.clients} clients, "
                    f"not {self.clients}"
                )
            values["clients"] = split.clients
        config = ResolvedConfig(**values)
        _check(config)
        if self.partition is not None:
            vars(config)["split"] = split  # so that the file is not read again
        return config


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(RunConfig):
    """A `RunConfig` in which nothing is left open; `RunConfig.resolved` makes it."""

    clients: int
    participation: float
    rounds: int
    momentum: float
    test_share: float
    pixels: str
    eval_every: int

    @cached_property
    def split(self) -> Partition | None:
        """What the partition file holds; None where the split is drawn."""
        return None if self.partition is None else Partition.load(self.partition)

    @property
    def cohort_size(self) -> int:
        """Clients in a round, at least one."""
        return max(1, round(self.clients * self.participation))


def _check(config: ResolvedConfig) -> None:
    """Raise UserError, in one line, for the first value out of range."""
    for name in ("alpha", "lr"):
        value = getattr(config, name)
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{name} must be greater than 0 and finite, got {value}")
    for name in COUNTS:
        value = getattr(config, name)
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    for name in (*COUNTS, "min_samples", "seed", "partition_seed"):
        if getattr(config, name) > LARGEST:
            raise UserError(f"{name} must be at most 2^63 - 1, got {getattr(config, name)}")
    if config.partition is None and config.min_samples < 2:
        raise UserError(f"min_samples must be at least 2, got {config.min_samples}")
    if not 0 < config.participation <= 1:
        raise UserError(
            f"participation must lie in (0, 1], got {config.participation}: the cohort cannot "
            "be empty or larger than the number of clients"
        )
    if not 0 <= config.momentum < 1:
        raise UserError(f"momentum must lie in [0, 1), got {config.momentum}")
    if not 0 < config.test_share < 1:
        raise UserError(f"test_share must lie between 0 and 1, got {config.test_share}")
    if not 0 <= config.delays <= LONGEST_DELAY:
        raise UserError(f"delays must lie in 0 to {LONGEST_DELAY}, got {config.delays}")
    method, attack = find_method(config.method), Attack.parse(config.byzantine)
    aggregator = Aggregator.parse(config.aggregator)
    check_options(method, config.settings, aggregator, attack, config.delays)
    if attack is not None and config.clients < 2:
        raise UserError("byzantine clients need an honest one beside them; take more clients")
    if config.seed < 0 or config.partition_seed < 0:
        raise UserError("seeds must not be negative")
    if config.precision not in PRECISIONS:
        raise unknown("precision", config.precision, (*PRECISIONS, AUTO))
    if config.eval_after not in EVAL_AFTER:
        raise unknown("eval_after", config.eval_after, EVAL_AFTER)
    if config.pixels not in ("benchmark", "data"):
        raise unknown("pixels", config.pixels, ("benchmark", "data"))
