"""What a method is: a few small hooks around local training, on rows of flat parameters.

A round, as the simulation runs it:

    start, personal = method.start(cohort)            # what each client begins with
    trained = method.train(start, cohort)             # its local training
    method.finish(cohort, start, trained)             # what server and clients keep

and `finish` is, side by side,

    uploaded = method.upload(cohort, start, trained)  # what the clients send
    method.keep(cohort, start, trained)               # what they keep
    method.aggregate(cohort, uploaded)                # what the server makes of it

In between an upload may be forged (`adversaries`) or late (`post`).

What `train` optimizes is said by `task`, plain SGD unless a method differs. Rows are models
unless `models` says how to read them. `method.round` is the number of the round, from 1. `start`
and `train` change nothing, so any client's model can be looked at or fine-tuned at any time; all
that a method remembers changes in `finish` and lives in `state`. What is a whole row for each
client is a `bank`, which a run with many clients keeps outside the device (`banks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ..data.clients import TRAIN, ClientData
from ..errors import UserError, unknown
from ..models.parameters import ParameterLayout
from ..training.tasks import Task
from ..training.trainer import Trainer
from ..typed import added as added
from ..typed import added_fields, as_declared, declared, without_added
from .adversaries import Adversaries
from .aggregators import MEAN, Aggregator
from .banks import ON_DEVICE, BankPlace, HostBank, Initial
from .disk_bank import DiskBank
from .messages import Message
from .post import Post
from .traffic import Traffic, scores_on_server


@dataclass(frozen=True)
class Federation:
    """All that a method may use.

    Attributes:
        initial: (size,) the server's model before the first round.
        layout: the columns of a row.
        data: the clients' data; `data.train_counts` are the aggregation weights.
        trainer: trains rows.
        quantile_rule: the protocol's quantile rule.
        quantile: Table 5's quantile for this data set and alpha, else 0.9995.
        rounds: how many rounds the run has, for what changes towards its end.
        place: where banks are.
        aggregator: what the server makes of the clients' rows.
        adversaries: the Byzantine clients; None: all are honest.
        delays: the most rounds that an upload is under way.
        cohort: clients in a round, for as many of which there is room under way.
    """

    initial: Tensor
    layout: ParameterLayout
    data: ClientData
    trainer: Trainer
    quantile_rule: str = "linear"
    quantile: float = 0.9995
    rounds: int = 400
    place: BankPlace = ON_DEVICE
    aggregator: Aggregator = MEAN
    adversaries: Adversaries | None = None
    delays: int = 0
    cohort: int = 1

    def holding_out(self, share: float) -> Federation:
        """The same, but that clients hold out samples; see `ClientData.holding_out`."""
        data = self.data.holding_out(share)
        trainer = Trainer(self.trainer.backend, data, self.trainer.settings)
        return replace(self, data=data, trainer=trainer)


@dataclass(frozen=True)
class NoSettings:
    """A method without hyperparameters of its own."""


class Method(Traffic):
    """FedAvg's behaviour; a method overrides the hooks in which it differs.

    Class attributes:
        name: the name used everywhere, set by `@register`.
        title: as printed in tables.
        source: the paper that defines the method.
        Settings: dataclass of the method's hyperparameters.
        averages: whether its server makes its model with `average`; None: if it inherits all that
            leads there, see `options`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    Settings: ClassVar[type] = NoSettings
    averages: ClassVar[bool | None] = None

    def __init__(self, federation: Federation, settings: Any = None) -> None:
        self.federation = federation
        self.settings = settings if settings is not None else self.Settings()
        # Tensors and banks; a bank may be either, see `bank`.
        self.state: dict[str, Any] = {"global": federation.initial.clone()}
        self.round = 0
        self._banks = 0
        self.post: Post | None = None  # `make_method` opens it

    @property
    def global_params(self) -> Tensor:
        """The server's model (size,)."""
        return self.state["global"]

    def bank(self, initial: Initial | None = None) -> Any:
        """A row for every client, to be read and written as `bank[clients]`.

        Args:
            initial: what each begins with, (D,), or a function of the client's number that gives
                it; None: the initial model.

        Returns:
            A tensor (clients, D), or where the run keeps rows elsewhere, a `Bank`.
        """
        row = self.federation.initial if initial is None else initial
        place, clients = self.federation.place, self.federation.data.clients
        device = self.federation.initial.device
        self._banks += 1
        if place.kind == "host":
            return HostBank(clients, row, device)
        if place.kind == "disk":
            assert place.folder is not None
            return DiskBank(clients, row, device, place.folder / f"bank-{self._banks}.rows")
        if isinstance(row, Tensor):
            return row.to(device).repeat(clients, 1)
        return torch.stack([row(client) for client in range(clients)]).to(device)

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor | None]:
        """The model each client begins a round with, and which of its parameters are personal.

        Args:
            clients: int64 (K,).

        Returns:
            rows (K, size), and a bool mask that broadcasts to (K, P), or None if nothing is
            personal.
        """
        return self.global_params.expand(len(clients), -1), None

    def receive(self, client: Tensor, message: Message) -> tuple[Tensor, Tensor | None]:
        """What `start` gives, of what a client keeps and what it is sent.

        This is how a client apart begins; it forgets the server's model of earlier rounds.

        Args:
            client: int64 (1,).
            message: the one of `messages_down`.

        Returns:
            its row (1, D), and what of it is personal; None also where the server alone knows.
        """
        if scores_on_server(self):
            return message["model"][None], None
        if message:
            self.global_params[self.travels] = message["model"]
        return self.start(client)

    def task(self, start: Tensor, clients: Tensor) -> Task:
        """What local training optimizes, beginning with the rows `start`."""
        return Task(start)

    def train(self, start: Tensor, clients: Tensor, purpose: int = TRAIN) -> Tensor:
        """The rows after local training.

        Args:
            start: as the hook `start` gave them.
            clients: int64 (K,).
            purpose: `TRAIN`, or `FINE_TUNE` when a client tries its model out; it orders batches.
        """
        task = self.task(start, clients)
        return self.federation.trainer.fit(task, clients.tolist(), self.round, purpose)

    def models(self, rows: Tensor, clients: Tensor) -> Tensor:
        """The models (K, size) to test, of rows before or after training."""
        return rows

    def finish(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        """Keep what server and clients keep after a round.

        A method that overrides this one instead of its three parts cannot be taken apart, as
        between the processes of a real federation.
        """
        uploaded = self.upload(clients, start, trained)
        if self.federation.adversaries is not None:
            exchanged = clients, uploaded, self.reference, self.round
            uploaded = self.federation.adversaries.sent(*exchanged)
        self.keep(clients, start, trained)
        if self.post is not None:
            clients, uploaded = self.post.exchange(clients, uploaded, self.reference, self.round)
        if len(clients):
            self.aggregate(clients, uploaded)

    def keep(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        """Keep what is each client's own; the server's model is still the one of this round."""

    def aggregate(self, clients: Tensor, uploaded: Tensor) -> None:
        """Make the server's new model of what clients have uploaded, (K, T)."""
        if isinstance(self.travels, slice):
            self.state["global"] = self.average(clients, uploaded)
            return
        merged = self.global_params.clone()
        merged[self.travels] = self.average(clients, self.whole(uploaded))[self.travels]
        self.state["global"] = merged

    def whole(self, uploaded: Tensor) -> Tensor:
        """Rows (K, size) of what clients have uploaded, (K, T), the server's in other columns.

        Whole rows are averaged, as the sum of a column may depend on where it is.
        """
        rows = self.global_params.repeat(len(uploaded), 1)
        rows[:, self.travels] = uploaded
        return rows

    @property
    def weighs_samples(self) -> bool:
        """Whether the mean weighs clients by their training samples; else they count alike."""
        return True

    def average(self, clients: Tensor, rows: Tensor) -> Tensor:
        """What the run's aggregator makes of rows (K, D): (D,).

        That is their mean, by default weighted by the clients' training samples (paper, Eq. 2).
        Eq. 11 divides once more by the number of clients; that would shrink the weights
        round by round and is taken for a slip.

        Args:
            clients: int64 (K,).
            rows: theirs, of the columns that travel or `whole`.
        """
        weights = None
        if self.weighs_samples:
            weights = self.federation.data.train_counts[clients].to(rows.dtype)
        center = self.reference
        if rows.shape[1] != len(center):
            center = self.whole(center[None])[0]
        return self.federation.aggregator.combine(rows, center, weights)


def added_settings(method: type[Method]) -> dict[str, Any]:
    """The settings of a method that came later, at their defaults."""
    return added_fields(method.Settings)


def identity(method: type[Method], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that count in a run's id."""
    return without_added(method.Settings, settings)


METHODS: dict[str, type[Method]] = {}
M = TypeVar("M", bound=Method)


def register(name: str) -> Callable[[type[M]], type[M]]:
    """Class decorator: make a method known under `name`."""

    def add(cls: type[M]) -> type[M]:
        cls.name = name
        METHODS[name] = cls
        return cls

    return add


def find_method(name: str) -> type[Method]:
    """The class registered under a name.

    Raises:
        UserError: no such method; the message names the nearest one.
    """
    if not isinstance(name, str) or name not in METHODS:  # a file may say anything
        raise unknown("method", name, METHODS)
    return METHODS[name]


def make_method(name: str, federation: Federation, settings: Mapping[str, Any]) -> Method:
    """A registered method at the beginning of a run.

    Args:
        name: of the method.
        federation: what it works with.
        settings: its hyperparameters by name.

    Raises:
        UserError: no such method or setting.
    """
    cls = find_method(name)
    method = cls(federation, make_settings(cls, settings))
    if federation.delays:
        # Only now it is known what travels.
        post = federation.delays, federation.cohort, method.reference, federation.data.seed
        method.post = Post(method.state, *post)
    return method


def make_settings(method: type[Method], values: Mapping[str, Any]) -> Any:
    """Build the method's settings; every value becomes one of its declared type.

    Raises:
        UserError: unknown setting, or a value of the wrong type.
    """
    known = {f.name: declared(method.Settings)[f.name] for f in fields(method.Settings)}
    parsed = {}
    for name, value in values.items():
        if name not in known:
            if not known:
                raise UserError(f"{method.name!r} has no setting {name!r}; it has none at all")
            raise unknown(f"setting of {method.name!r}", name, known)
        parsed[name] = as_declared(f"setting {name!r}", value, known[name])
    return method.Settings(**parsed)


def column_mask(layout: ParameterLayout, *layers: str, device: torch.device) -> Tensor:
    """Bool (P,): true in the columns of the named layers."""
    mask = torch.zeros(layout.parameters, dtype=torch.bool, device=device)
    for layer in layers:
        mask[layout.layers[layer]] = True
    return mask
