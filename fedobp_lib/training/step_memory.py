"""The memory that the batched back-end's steps work on.

A recorded CUDA graph reads and writes the addresses it was recorded with, so every kind of step
has tensors of its own that are kept from round to round.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..data.clients import ClientData
from .plan import LONGEST_STRETCH, BatchPlan, Stretch
from .recording import Recorder
from .tasks import Task


class StepMemory:
    """Memory at fixed places, which recorded steps read and write.

    Args:
        task: of K clients; later ones are like it.
        data: images and labels; recorded steps read them, also when the run they came from is over.
        batch_size: places in a batch.

    Attributes:
        variables, velocity: (K, D).
        given: of the task.
        lr, momentum: (K, 1).
        index, weight, draw: of each step of a stretch, (steps, K, ...); see `BatchPlan`.
    """

    def __init__(self, task: Task, data: ClientData, batch_size: int) -> None:
        device, clients = task.variables.device, len(task.variables)
        self.data = data
        self.batch_size = batch_size
        self.variables = torch.empty_like(task.variables)
        self.velocity = torch.empty_like(task.variables)
        self.given = {name: torch.empty_like(tensor) for name, tensor in task.given.items()}
        # Recorded steps go on reading what else belongs to the task.
        self.task = copy.copy(task)
        self.task.variables, self.task.given = self.variables, self.given
        self.lr, self.momentum = torch.zeros(2, clients, 1, device=device)
        shape = LONGEST_STRETCH, clients
        self.index = torch.zeros(*shape, batch_size, dtype=torch.int64, device=device)
        self.weight = torch.zeros(*shape, batch_size, device=device)
        self.draw = torch.zeros(*shape, task.draws, device=device)
        self.recorder = Recorder(device)
        self._single: StepMemory | None = None

    @property
    def changing(self) -> list[Tensor]:
        """What steps change."""
        return [self.variables, self.velocity]

    def fits(self, task: Task, data: ClientData, batch_size: int) -> bool:
        """Whether steps of a task can work here, with other numbers in the same places."""
        return (
            self.variables.shape == task.variables.shape
            and self.batch_size == batch_size
            and self.task.like(task)
            and self.data.shares_images(data)
        )

    def begin(self, task: Task, plan: BatchPlan) -> None:
        """Take in a new round."""
        self.variables.copy_(task.variables)
        self.velocity.zero_()
        for name, tensor in task.given.items():
            self.given[name].copy_(tensor)
        self.lr.copy_(plan.lr)
        self.momentum.copy_(plan.momentum)

    def load(self, plan: BatchPlan, epoch: int, stretch: Stretch, rows: slice) -> None:
        """Take in the batches of a stretch of steps, for clients in the places `rows`."""
        steps = slice(stretch.first, stretch.first + stretch.steps)
        here = slice(0, stretch.steps), rows
        self.index[here].copy_(plan.index[epoch, steps, stretch.rows])
        self.weight[here].copy_(plan.weight[steps, stretch.rows])
        if self.draw.shape[2]:
            self.draw[here].copy_(plan.draws[epoch, steps, stretch.rows])

    @contextmanager
    def alone(self, row: slice) -> Iterator[StepMemory]:
        """Memory of one client, with what is in a row, which afterwards has what became of it.

        So steps of single clients are recorded once, whichever row they are in.
        """
        if self._single is None:
            self._single = StepMemory(
                self.task.take(torch.arange(1, device=self.lr.device)), self.data, self.batch_size
            )
        single = self._single
        for mine, its in self._pairs(single):
            its.copy_(mine[row])
        yield single
        for mine, its in zip(self.changing, single.changing, strict=True):
            mine[row].copy_(its)

    def _pairs(self, other: StepMemory) -> list[tuple[Tensor, Tensor]]:
        """What a row holds, here and in another memory."""
        ours, theirs = (
            [*m.changing, m.lr, m.momentum, *(m.given[name] for name in self.given)]
            for m in (self, other)
        )
        return list(zip(ours, theirs, strict=True))
