"""A few rounds of a method in a small federation that counts instead of training.

Two clients are selected in every round and a third never, so that what a method does with clients
outside the cohort is seen as well. Each has as many samples as a client of the run on average. All
else is the method's own: what is counted is what its hooks do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
import torch

from ...config import ResolvedConfig
from ...data.clients import ClientData
from ...data.partition import Partition
from ...methods import Federation, Message, Method, make_method, scores_on_server
from ...methods.messages import nbytes
from ...models.networks import build_model
from ...models.parameters import ParameterLayout
from ...paper.protocols import PROTOCOLS
from ...paper.published import table5_quantile
from ...training.trainer import LocalSettings, Trainer
from .counting import CountingBackend
from .ledger import CLIENT, SERVER, Ledger
from .network import Network

# Until what a method does in a round stays the same: FedSelect's masks are full in the fourth.
ROUNDS = 4
COHORT, OUTSIDE = (0, 1), 2

# Whose work a hook is, and what part of it; the last two are parts of `finish` in some methods.
HOOKS = {
    "start": (CLIENT, "scoring"),
    "train": (CLIENT, "other"),
    "upload": (CLIENT, "other"),
    "keep": (CLIENT, "other"),
    "aggregate": (SERVER, "aggregation"),
    "finish": (SERVER, "aggregation"),
    "exchange": (CLIENT, "scoring"),
    "extended": (CLIENT, "scoring"),
}


@dataclass(frozen=True)
class Shape:
    """What has to be known of a data set.

    Attributes:
        image: (height, width, channels).
        classes: how many.
        samples: training samples of a client, on average.
    """

    image: tuple[int, int, int]
    classes: int
    samples: int


@dataclass(frozen=True)
class Played:
    """A round that was played.

    Attributes:
        ledger: its FLOPs and peaks.
        down, up: bytes that a client of the cohort receives and sends.
        outside: bytes that a client outside the cohort receives and sends.
        kept: bytes that a client keeps after it, the server of each client, and besides.
    """

    ledger: Ledger
    down: float
    up: float
    outside: tuple[float, float]
    kept: tuple[float, float, float]


def play(config: ResolvedConfig, shape: Shape, count: int) -> list[Played]:
    """Rounds of a method, as `Simulation` plays them, without any test.

    Args:
        config: the run; its clients and rounds are not used.
        shape: of its data.
        count: how many rounds.

    Raises:
        UserError: the method does not fit the model.
    """
    method, backend = _method(config, shape, count)
    clients, rounds = torch.tensor(COHORT), []
    with _one_thread():
        for number in range(1, count + 1):
            method.round = number
            ledger = Ledger()
            with _watched(method, backend, ledger):
                # One by one: what several would share in one place, each client computes itself.
                start = torch.cat([method.start(one)[0] for one in clients.split(1)])
                rows = zip(start.split(1), clients.split(1), strict=True)
                trained = torch.cat([method.train(row, one) for row, one in rows])
            if method.compares:
                model = method.federation.initial
                for client, row in zip(COHORT, start, strict=True):
                    dense, sparse = ledger.peaks[client], ledger.sparse_peaks[client]
                    active = model.element_size() * int(row[: len(model)].count_nonzero())
                    ledger.needs(client, dense + model.nbytes, sparse + active)
            # What a message is made of was computed in the round, or is in `finish`.
            down = _mean(method.messages_down(clients, start))
            sent = method.messages_up(clients, start, trained)
            of_others = method.messages_outside(torch.tensor([OUTSIDE]))
            with _watched(method, backend, ledger):
                method.finish(clients, start, trained)
            down += _mean(method.replies(clients, sent))
            others = _mean(of_others[0]), _mean(of_others[1])
            kept = [method.kept_by_client(0), method.kept_for_client(0), method.kept_by_server()]
            by_client, for_client, by_server = map(nbytes, kept)
            rounds.append(
                Played(ledger, down, _mean(sent), others, (by_client, for_client, by_server))
            )
    return rounds


def _mean(messages: list[Message]) -> float:
    return sum(map(nbytes, messages)) / len(messages)


def _method(config: ResolvedConfig, shape: Shape, rounds: int) -> tuple[Method, CountingBackend]:
    model = build_model(config.model, shape.image, shape.classes, seed=0)
    layout = ParameterLayout.of(model)
    network = Network.of(model, layout, shape.image)
    backend = CountingBackend(network, layout, Ledger(), config.batch_size)
    count, each = len(COHORT) + 1, shape.samples
    offsets, device = np.arange(count + 1) * each, torch.device("cpu")
    none = np.zeros(0, np.int64)
    data = ClientData(
        torch.zeros(count * each, 1, 1, 1, dtype=torch.uint8),  # nobody looks at them
        torch.arange(count * each) % shape.classes,
        Partition(np.arange(count * each), offsets, none, np.zeros(count + 1, np.int64)),
        np.zeros(1, np.float32), np.ones(1, np.float32), shape.classes, device, config.seed,
    )  # fmt: skip
    local = LocalSettings(config.local_epochs, config.batch_size, config.lr, config.momentum)
    federation = Federation(
        initial=layout.flatten(model),
        layout=layout,
        data=data,
        trainer=Trainer(backend, data, local),
        quantile_rule=PROTOCOLS[config.protocol]["quantile_rule"],
        quantile=table5_quantile(config.dataset, config.alpha),
        rounds=rounds,
    )
    return make_method(config.method, federation, config.settings), backend


@contextmanager
def _watched(method: Method, backend: CountingBackend, ledger: Ledger) -> Iterator[None]:
    """Within it, whatever a hook does is written down as its work."""
    hooks = {name: getattr(method, name) for name in HOOKS if hasattr(method, name)}
    for name, hook in hooks.items():
        side, part = HOOKS[name]
        if scores_on_server(method) and name in ("start", "keep"):
            side = SERVER
        setattr(method, name, _noted(hook, ledger, side, part, name))
    backend.writes(ledger)
    try:
        with ledger:
            yield
    finally:
        backend.writes(Ledger())
        for name in hooks:
            delattr(method, name)


def _noted(hook: Callable, ledger: Ledger, side: str, part: str, name: str) -> Callable:
    place = {"train": 1, "exchange": None}.get(name, 0)  # of the clients among the arguments

    @wraps(hook)
    def noted(*args: Any, **kwargs: Any) -> Any:
        numbers = None if place is None else args[place].tolist()
        with ledger.work(side, part, numbers):
            return hook(*args, **kwargs)

    return noted


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tensors are watched in the thread that computes with them, so all is done in this one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
