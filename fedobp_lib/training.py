"""Local SGD of a cohort. A back-end takes rows (the clients' models) and returns rows.

`LoopTrainer` trains one client after another: the reference for correctness and the choice
for a CPU. A back-end for all clients at once has the same two methods, `fit` and `gradient`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.sgd import sgd

from .clients import TRAIN, ClientData
from .parameters import ParameterLayout


@dataclass(frozen=True)
class LocalSettings:
    """What a client does with its data in a round (paper, Section 4.1)."""

    epochs: int = 5
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.7


class LoopTrainer:
    """Train the clients one after another with one model that moves from row to row.

    Args:
        model: supplies the forward pass; its own weights are not used.
        layout: the layout of a row.
        data: the clients' data.
        settings: epochs, batch size, learning rate, momentum.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        data: ClientData,
        settings: LocalSettings,
    ) -> None:
        self.model = model.to(data.device)
        self.layout = layout
        self.data = data
        self.settings = settings
        self._row = torch.empty(layout.size, device=data.device)
        layout.bind(self.model, self._row)
        # Batch normalization cannot train on a single sample.
        self._smallest_batch = 2 if layout.size > layout.parameters else 1

    def load(self, row: Tensor) -> nn.Module:
        """The model with the weights of `row` (size,)."""
        self._row.copy_(row)
        return self.model

    def fit(
        self, rows: Tensor, clients: Sequence[int], round_: int, purpose: int = TRAIN
    ) -> Tensor:
        """Train every row on its client's data by mini-batch SGD (paper, Eq. 10).

        Each epoch visits a client's samples once, in an order that depends on (seed, purpose,
        round, client); the last batch may be short. Momentum starts at zero.

        Args:
            rows: float (K, size), where each client starts; not changed.
            clients: their K numbers.
            round_: number of the round.
            purpose: which random stream orders the batches.

        Returns:
            (K, size), the trained rows.
        """
        trained = torch.empty_like(rows)
        for k, client in enumerate(clients):
            self.load(rows[k])
            self._fit_one(int(client), round_, purpose)
            trained[k] = self._row
        return trained

    def gradient(self, rows: Tensor, clients: Sequence[int], chunk: int = 512) -> Tensor:
        """Gradient of each client's mean training loss at its row: (K, P).

        Taken in evaluation mode, over all training samples of the client.
        """
        gradients = rows.new_zeros(len(rows), self.layout.parameters)
        parameters = list(self.model.parameters())
        self.model.eval()
        for k, client in enumerate(clients):
            self.load(rows[k])
            images, labels = self.data.train(int(client))
            views = self.layout.views(gradients[k])
            for x, y in zip(images.split(chunk), labels.split(chunk), strict=True):
                loss = F.cross_entropy(self.model(x), y, reduction="sum") / len(labels)
                for view, grad in zip(
                    views.values(), torch.autograd.grad(loss, parameters), strict=False
                ):
                    view.add_(grad)
        return gradients

    def _fit_one(self, client: int, round_: int, purpose: int) -> None:
        settings = self.settings
        images, labels = self.data.train(client)
        images = images.permute(0, 2, 3, 1)  # contiguous again, so that rows gather fast
        parameters = list(self.model.parameters())
        momenta: list[Tensor | None] = [None] * len(parameters)
        self.model.train()
        for order in self.data.orders(client, round_, purpose, settings.epochs):
            shuffled = images[order].permute(0, 3, 1, 2)
            for x, y in zip(
                shuffled.split(settings.batch_size),
                labels[order].split(settings.batch_size),
                strict=True,
            ):
                if len(y) < self._smallest_batch:
                    continue
                loss = F.cross_entropy(self.model(x), y)
                gradients = torch.autograd.grad(loss, parameters)
                # The fused kernel updates every tensor in one pass over memory.
                sgd(
                    parameters,
                    list(gradients),
                    momenta,
                    fused=True,
                    weight_decay=0.0,
                    momentum=settings.momentum,
                    lr=settings.lr,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                )
