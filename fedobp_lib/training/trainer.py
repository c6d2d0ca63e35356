"""Local training as methods see it: rows of variables in, trained rows out.

Methods talk to a `Trainer`, which knows one federation's data and settings. It hands `Job`s to
a `Backend`, which does the computing: `LoopBackend`, client by client, is the reference for
correctness and the choice for a CPU; `BatchedBackend` takes all clients at once and is the
choice for a GPU. Both see the same batches and give the same numbers up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.clients import TRAIN, ClientData
from ..models.parameters import ParameterLayout
from .features import Features
from .tasks import Task


@dataclass(frozen=True)
class LocalSettings:
    """What a client does with its data in a round (paper, Section 4.1)."""

    epochs: int = 5
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.7
    share: float = 1.0  # of its samples, drawn anew in each round, those it uses
    skip: int = 0  # epochs of the round that went before, so that batches go on after them


@dataclass(frozen=True)
class Job:
    """Local training of some clients of one federation in one round."""

    task: Task
    data: ClientData
    clients: tuple[int, ...]
    round_: int
    purpose: int
    settings: LocalSettings


@dataclass(frozen=True)
class Question:
    """Models (K, size) and the clients on whose data they are to be looked at.

    Models are in evaluation mode. `part` of the data is `train`, `test` or `held_out`.
    """

    rows: Tensor
    data: ClientData
    clients: tuple[int, ...]
    part: str = "train"

    @property
    def counts(self) -> np.ndarray:
        """Samples of each client, int64 (K,)."""
        return np.array([len(self.data.of(self.part, client)) for client in self.clients])


class Learner(Protocol):
    """Trains, differentiates and tests rows on the data of their clients."""

    def fit(self, jobs: Sequence[Job]) -> list[Tensor]:
        """The trained variables (K, D) of every job."""

    def gradient(self, questions: Sequence[Question]) -> list[Tensor]:
        """Gradients (K, P) of the mean loss over all samples."""

    def test(self, questions: Sequence[Question]) -> list[tuple[Tensor, Tensor]]:
        """Of each client's samples: correct answers, int64 (K,), and the sum of their losses
        in nats, float64 (K,)."""


class Backend(Learner, Protocol):
    """Computes for the clients of one or several federations that share images and model."""

    name: str
    layout: ParameterLayout

    @property
    def heads(self) -> Learner:
        """Computes for classifiers alone, on `Features`."""

    def fisher(self, questions: Sequence[Question]) -> list[Tensor]:
        """Mean over all samples of each sample's squared gradient: (K, P)."""

    def features(self, questions: Sequence[Question]) -> list[list[Tensor]]:
        """For each client, what its model hands to the classifier: (samples, width)."""


class Trainer:
    """One federation's way to the back-end.

    Args:
        backend: computes.
        data: the clients' data.
        settings: epochs, batch size, learning rate, momentum.
    """

    def __init__(self, backend: Backend, data: ClientData, settings: LocalSettings) -> None:
        self.backend = backend
        self.layout = backend.layout
        self.data = data
        self.settings = settings

    def fit(
        self,
        task: Task | Tensor,
        clients: Sequence[int],
        round_: int,
        purpose: int = TRAIN,
        features: Features | None = None,
        **changes: Any,
    ) -> Tensor:
        """Train every client on its own data by mini-batch SGD (paper, Eq. 10).

        Each epoch visits a client's samples once, in an order that depends on (seed, purpose,
        round, client); the last batch may be short. Momentum starts at zero.

        Args:
            task: what is trained, a row a client; rows (K, size) stand for plain SGD on models.
            clients: their K numbers.
            round_: number of the round.
            purpose: which random stream orders the batches.
            features: of these clients, where the task's models are classifiers alone.
            changes: fields of `LocalSettings` that differ this time.

        Returns:
            (K, D), the trained variables.
        """
        if isinstance(task, Tensor):
            task = Task(task)
        numbers = tuple(int(client) for client in clients)
        settings = replace(self.settings, **changes)
        job = Job(task, features or self.data, numbers, round_, purpose, settings)
        return self._learner(features).fit([job])[0]

    def gradient(
        self, rows: Tensor, clients: Sequence[int], features: Features | None = None
    ) -> Tensor:
        """Gradient of each client's mean training loss at its row: (K, P).

        Args:
            rows: models; with `features`, classifiers.
            clients: their K numbers.
            features: of these clients.
        """
        return self._learner(features).gradient([self._ask(rows, clients, features)])[0]

    def fisher(self, rows: Tensor, clients: Sequence[int]) -> Tensor:
        """Mean of the squared gradients of a client's single training samples: (K, P).

        The diagonal of the empirical Fisher information, as in Kirkpatrick et al. (2017). The
        paper's Eq. 6 squares the mean instead; that is `gradient(...) ** 2`.
        """
        return self.backend.fisher([self._ask(rows, clients)])[0]

    def features(self, rows: Tensor, clients: Sequence[int]) -> list[Tensor]:
        """What each model hands to its classifier: (samples, width) for every client.

        The samples are a client's training samples in the order of the partition; their labels
        are `data.labels_of(client)`.
        """
        return self.backend.features([self._ask(rows, clients)])[0]

    @property
    def features_stay(self) -> bool:
        """Whether a model's features stay while only its classifier trains.

        With batch normalization they do not: its running statistics follow the batches.
        """
        return self.layout.size == self.layout.parameters

    def fixed_features(self, rows: Tensor, clients: Sequence[int]) -> Features:
        """The features of each client's training samples under its model, to train heads on.

        Only where `features_stay`. In bf16 the features are those of autocast.
        """
        numbers = [int(client) for client in clients]
        return Features(self.data, numbers, self.features(rows, numbers))

    def losses(
        self,
        rows: Tensor,
        clients: Sequence[int],
        features: Features | None = None,
        part: str = "train",
    ) -> Tensor:
        """Mean loss of each row on a part of the data, in nats: float64 (K,).

        Other arguments as of `gradient`.
        """
        question = self._ask(rows, clients, features, part)
        _, total = self._learner(features).test([question])[0]
        return total / torch.from_numpy(question.counts).to(total)

    def test(self, rows: Tensor, clients: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Test each row on its client's test data; see `Backend.test`."""
        return self.backend.test([self._ask(rows, clients, part="test")])[0]

    def _learner(self, features: Features | None) -> Learner:
        return self.backend if features is None else self.backend.heads

    def _ask(
        self,
        rows: Tensor,
        clients: Sequence[int],
        features: Features | None = None,
        part: str = "train",
    ) -> Question:
        data = features or self.data
        return Question(rows, data, tuple(int(client) for client in clients), part)
