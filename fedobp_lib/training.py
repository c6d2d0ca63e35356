"""Local SGD of a cohort. A back-end takes rows (the clients' models) and returns rows.

`LoopTrainer` trains client by client: the reference for correctness and the choice for a CPU,
where every core works on a client of its own. A back-end for all clients at once has the same
methods.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

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


class Worker:
    """A model that moves from row to row: its weights are views of a row of its own."""

    def __init__(self, model: nn.Module, layout: ParameterLayout, device: torch.device) -> None:
        self.model = model.to(device)
        self.parameters = list(self.model.parameters())
        self.row = torch.empty(layout.size, device=device)
        layout.bind(self.model, self.row)


class LoopTrainer:
    """Train client by client, on a CPU with one worker a core.

    A batch of 32 small images is too little work to share between cores, so each core takes a
    client of its own. As nothing is split between cores, the result does not depend on how many
    there are.

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
        self.layout = layout
        self.data = data
        self.settings = settings
        self._workers = [Worker(copy.deepcopy(model), layout, data.device)]
        # Batch normalization cannot train on a single sample.
        self._smallest_batch = 2 if layout.size > layout.parameters else 1

    def each(
        self, rows: Tensor, clients: Sequence[int], work: Callable[[Worker, int, int], None]
    ) -> None:
        """Call `work(worker, k, client)` for every row, with the row loaded into the worker.

        On a CPU as many calls run at a time as PyTorch may use threads, each on one thread, the
        clients with most samples first; `work` must only write to what belongs to its k.

        Args:
            rows: float (K, size).
            clients: their K numbers.
            work: what to do.
        """
        clients = [int(client) for client in clients]
        on_cpu = self.data.device.type == "cpu"
        count = min(torch.get_num_threads(), len(clients)) if on_cpu else 1
        while len(self._workers) < count:
            model = copy.deepcopy(self._workers[0].model)
            self._workers.append(Worker(model, self.layout, self.data.device))
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers[:count]:
            free.put(worker)

        def one(k: int) -> None:
            worker = free.get()
            try:
                worker.row.copy_(rows[k])
                work(worker, k, clients[k])
            finally:
                free.put(worker)

        if not on_cpu:
            for k in range(len(clients)):
                one(k)
            return
        # The number of threads is set per thread: the caller keeps its own.
        pool = ThreadPoolExecutor(count, "client", torch.set_num_threads, (1,))
        try:
            order = sorted(range(len(clients)), key=lambda k: -self.data.samples(clients[k]))
            for done in [pool.submit(one, k) for k in order]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)

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

        def work(worker: Worker, k: int, client: int) -> None:
            self._fit_one(worker, client, round_, purpose)
            trained[k] = worker.row

        self.each(rows, clients, work)
        return trained

    def gradient(self, rows: Tensor, clients: Sequence[int], chunk: int = 512) -> Tensor:
        """Gradient of each client's mean training loss at its row: (K, P).

        Taken in evaluation mode, over all training samples of the client.
        """
        gradients = rows.new_zeros(len(rows), self.layout.parameters)

        def work(worker: Worker, k: int, client: int) -> None:
            worker.model.eval()
            images, labels = self.data.train(client)
            views = list(self.layout.views(gradients[k]).values())
            for x, y in zip(images.split(chunk), labels.split(chunk), strict=True):
                loss = F.cross_entropy(worker.model(x), y, reduction="sum") / len(labels)
                for view, grad in zip(
                    views, torch.autograd.grad(loss, worker.parameters), strict=False
                ):
                    view.add_(grad)

        self.each(rows, clients, work)
        return gradients

    def _fit_one(self, worker: Worker, client: int, round_: int, purpose: int) -> None:
        settings = self.settings
        images, labels = self.data.train(client)
        images = images.permute(0, 2, 3, 1)  # contiguous again, so that rows gather fast
        model, parameters = worker.model.train(), worker.parameters
        momenta: list[Tensor | None] = [None] * len(parameters)
        for order in self.data.orders(client, round_, purpose, settings.epochs):
            shuffled = images[order].permute(0, 3, 1, 2)
            for x, y in zip(
                shuffled.split(settings.batch_size),
                labels[order].split(settings.batch_size),
                strict=True,
            ):
                if len(y) < self._smallest_batch:
                    continue
                loss = F.cross_entropy(model(x), y)
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
