"""What local training optimizes. A method says it once, for both training back-ends.

A `Task` holds the variables of K clients as rows of a matrix. The loop back-end passes it one
client at a time (K = 1), the batched one a whole cohort; so everything a task computes works
along the first axis and never mixes rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

Gradient = Callable[[Tensor], Tensor]


class Task:
    """SGD on each client's own loss; a method overrides where it differs.

    Args:
        variables: float (K, D), where training starts; not changed. D is the width of a model
            row unless a method trains something else, or more.
        given: tensors (K, ...) that the task needs and that do not change during training.
            What is the same for all clients may be an attribute of a subclass instead.

    Attributes:
        draws: uniform random numbers in [0, 1) that every step of every client gets.
        feature_decay: every sample of a batch adds this times the squared norm of its features
            (what the model hands to its classifier) to the loss that `gradient` differentiates.
    """

    draws: int = 0
    feature_decay: float = 0.0

    def __init__(self, variables: Tensor, **given: Tensor) -> None:
        self.variables = variables
        self.given = given

    def phase(self, epoch: int, epochs: int) -> Hashable:
        """A name for what an epoch (from 0) does; `mask` and `direction` are told it."""
        return None

    def mask(self, given: dict[str, Tensor], phase: Any) -> Tensor | None:
        """Bool, (D,) or (K, D): which columns train; None: all.

        The other columns stay as they are to the last bit, and so does their momentum.
        """
        return None

    def direction(
        self,
        variables: Tensor,
        given: dict[str, Tensor],
        phase: Any,
        gradient: Gradient,
        draw: Tensor,
    ) -> Tensor:
        """What SGD takes for the gradient in one step: (K, D).

        Args:
            variables: (K, D), the present values.
            given: the task's tensors for these K clients.
            phase: what `phase` said.
            gradient: takes models (K, size), gives the gradient (K, size) of every client's mean
                loss on its present batch (plus `feature_decay`); may be called several times.
                Running statistics of the models it is given are updated in place.
            draw: (K, draws) random numbers.
        """
        return gradient(variables)

    def project(self, variables: Tensor, given: dict[str, Tensor]) -> None:
        """Change the variables in place after a step, for instance back into their range."""

    @property
    def plain(self) -> bool:
        """Whether this is SGD and nothing else."""
        kind = type(self)
        return all(
            getattr(kind, hook) is getattr(Task, hook) for hook in ("mask", "direction", "project")
        )

    def idle(self, phase: Hashable) -> bool:
        """Whether no column trains in a phase, so that only running statistics may change."""
        if type(self).project is not Task.project:
            return False
        mask = self.mask(self.given, phase)
        return mask is not None and not mask.any()

    def take(self, index: Tensor) -> Task:
        """The task of some of the clients, in the order of `index`."""
        part = copy.copy(self)
        part.variables = self.variables[index]
        part.given = {name: tensor[index] for name, tensor in self.given.items()}
        return part

    @staticmethod
    def join(tasks: Sequence[Task]) -> Task:
        """One task for the clients of several.

        Raises:
            ValueError: the tasks differ in more than their rows.
        """
        if len(tasks) == 1:
            return tasks[0]
        if not all(task.like(tasks[0]) for task in tasks[1:]):
            raise ValueError("tasks of different kinds cannot be trained as one")
        joined = copy.copy(tasks[0])
        joined.variables = torch.cat([task.variables for task in tasks])
        joined.given = {
            name: torch.cat([task.given[name] for task in tasks]) for name in joined.given
        }
        return joined

    def like(self, other: Task) -> bool:
        """Whether the two differ in nothing but their rows."""
        if type(self) is not type(other) or self.variables.shape[1:] != other.variables.shape[1:]:
            return False
        rows = ("variables", "given")
        mine = {name: value for name, value in vars(self).items() if name not in rows}
        theirs = {name: value for name, value in vars(other).items() if name not in rows}
        shapes = {name: (t.shape[1:], t.dtype) for name, t in self.given.items()}
        return (
            shapes == {name: (t.shape[1:], t.dtype) for name, t in other.given.items()}
            and mine.keys() == theirs.keys()
            and all(_same(mine[name], theirs[name]) for name in mine)
        )


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or torch.equal(one, other)
    return one == other


def sgd_step(
    variables: Tensor,
    velocity: Tensor,
    direction: Tensor,
    mask: Tensor | None,
    lr: Tensor | float,
    momentum: Tensor | float,
) -> None:
    """One step of SGD with momentum as in torch.optim.SGD, in place, on rows (K, D).

    Args:
        variables, velocity: changed where `mask` holds.
        direction: the gradient.
        mask: bool, broadcasts to (K, D); None: everywhere.
        lr, momentum: numbers, or (K, 1).
    """
    if mask is None:
        velocity.mul_(momentum).add_(direction)
        variables.sub_(lr * velocity)
    else:
        moved = torch.where(mask, momentum * velocity + direction, velocity)
        velocity.copy_(moved)
        variables.sub_(torch.where(mask, lr * moved, 0))
