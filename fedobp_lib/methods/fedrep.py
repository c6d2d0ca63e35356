"""FedRep (Collins et al. 2021): a shared body, and a head of its own for every client.

In a round, each client of the cohort
1. takes the body, all below the classifier, from the server, and the head from its own last model,
2. trains the head for some epochs, with the body frozen,
3. trains the body for some epochs, with the head frozen,
4. keeps the head, and uploads the body;
the server takes the plain mean of the bodies. It never sees a head.

In the mean all clients count alike, whatever their numbers of samples: so it is in the paper's
Algorithm 1, and in the authors' code (lgcollins/FedRep) for CIFAR and MNIST, where clients have
about equally many samples. For FEMNIST and Sent140, where they do not, that code weighs clients by
their samples; `sample_weights` does so here.

Of a round's local epochs the last `body_epochs` belong to the body and those before to the head.
With no more local epochs than `body_epochs`, all of them belong to the body and the heads stay
the initial one; so it is in the authors' code, too. What is frozen does not change by a bit.
The momentum of either part begins at zero with its own first step.

Without running statistics the head's epochs leave alone what the head is given: then each client's
features are computed once, and the head's epochs take them.

The running statistics of batch normalization (ResNet-18) belong to the body. They follow the
client's batches in the head's epochs too, as in every training pass, and are averaged.

A client keeps its head while it is not selected; before its first round that is the initial one,
the same for all. In the authors' code and in the benchmark behind the FedOBP paper the server
averages the heads, too, and a client that was never selected begins with their average.

The authors' code in its last round, and the benchmark when it fine-tunes a model, train the head
alone; here fine-tuning is a round like any other. The benchmark always weighs clients by their
samples. The authors' code has a weight decay of 1e-4, which is no part of the method.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.clients import TRAIN
from ..errors import UserError
from ..training.tasks import Task
from .base import Federation, Method, column_mask, register


@dataclass(frozen=True)
class FedRepSettings:
    """Hyperparameters of FedRep.

    Attributes:
        body_epochs: the local epochs that train the body, at least 1; the others train the head.
            1 as in Appendix B.4 of the FedOBP paper and in the authors' code.
        sample_weights: whether the server weighs clients by their training samples; if not they
            count alike.
    """

    body_epochs: int = 1
    sample_weights: bool = False

    def __post_init__(self) -> None:
        if self.body_epochs < 1:
            raise UserError(f"body_epochs must be at least 1, got {self.body_epochs}")


class HeadThenBody(Task):
    """Trains the head while the body is frozen, then the body while the head is frozen.

    Args:
        head: bool (size,), the head's columns.
        body_epochs: number of last epochs that train the body.
    """

    def __init__(self, variables: Tensor, head: Tensor, body_epochs: int) -> None:
        super().__init__(variables)
        self.head, self.body = head, ~head
        self.body_epochs = body_epochs

    def phase(self, epoch: int, epochs: int) -> str:
        return "head" if epoch < epochs - self.body_epochs else "body"

    def mask(self, given: dict[str, Tensor], phase: Hashable) -> Tensor:
        return self.head if phase == "head" else self.body


@register("fedrep")
class FedRep(Method):
    """Head and body take turns; the head is the client's own, the body is averaged."""

    title = "FedRep"
    source = "Collins et al. 2021, arXiv 2102.07078"
    Settings = FedRepSettings

    def __init__(self, federation: Federation, settings: FedRepSettings | None = None) -> None:
        super().__init__(federation, settings)
        layout = federation.layout
        self.columns = layout.layers["classifier"]
        self.mask = column_mask(layout, "classifier", device=federation.initial.device)
        self.head = torch.zeros_like(federation.initial, dtype=torch.bool)
        self.head[self.columns] = True
        self.body = (~self.head).nonzero()[:, 0]
        self.state["heads"] = self.bank(federation.initial[self.columns])

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.global_params.repeat(len(clients), 1)
        rows[:, self.columns] = self.state["heads"][clients]
        return rows, self.mask

    def task(self, start: Tensor, clients: Tensor) -> Task:
        return HeadThenBody(start, self.head, self.settings.body_epochs)

    def train(self, start: Tensor, clients: Tensor, purpose: int = TRAIN) -> Tensor:
        trainer, numbers = self.federation.trainer, clients.tolist()
        of_body = self.settings.body_epochs
        of_head = trainer.settings.epochs - of_body
        if of_head <= 0 or not trainer.features_stay:
            return super().train(start, clients, purpose)
        place, rows = (numbers, self.round, purpose), start.clone()
        features = trainer.fixed_features(start, numbers)
        heads = rows[:, self.columns]
        rows[:, self.columns] = trainer.fit(heads, *place, features, epochs=of_head)
        return trainer.fit(self.task(rows, clients), *place, epochs=of_body, skip=of_head)

    @property
    def travels(self) -> Tensor:
        return self.body

    def keep(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        self.state["heads"][clients] = trained[:, self.columns]

    @property
    def weighs_samples(self) -> bool:
        return self.settings.sample_weights
