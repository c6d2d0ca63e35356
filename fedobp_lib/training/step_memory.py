"""The memory that the batched back-end's steps work on.

A recorded CUDA graph reads and writes the addresses it was recorded with, so every kind of step
has tensors of its own that are kept from round to round.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from typing import Any

import torch

from .plan import BatchPlan
from .tasks import Task


class StepMemory:
    """Memory at fixed places, which recorded steps read and write."""

    def __init__(self, task: Task, plan: BatchPlan) -> None:
        self.variables = torch.empty_like(task.variables)
        self.velocity = torch.empty_like(task.variables)
        self.given = {name: torch.empty_like(tensor) for name, tensor in task.given.items()}
        # Later tasks are like this one. Recorded steps go on reading what else belongs to it.
        self.task = copy.copy(task)
        self.task.variables, self.task.given = self.variables, self.given
        self.index = torch.empty_like(plan.index[0, 0])
        self.weight = torch.empty_like(plan.weight[0])
        self.draw = torch.empty_like(plan.draws[0, 0])
        self.lr = torch.empty_like(plan.lr)
        self.momentum = torch.empty_like(plan.momentum)
        self.recorded: dict[Hashable, Callable[[], None]] = {}
        self._pool: Any = None

    def begin(self, task: Task, plan: BatchPlan) -> None:
        """Take in a new round."""
        self.variables.copy_(task.variables)
        self.velocity.zero_()
        for name, tensor in task.given.items():
            self.given[name].copy_(tensor)
        self.lr.copy_(plan.lr)
        self.momentum.copy_(plan.momentum)

    def pool(self) -> Any:
        """One memory pool for all recorded steps, as only one runs at a time."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool
