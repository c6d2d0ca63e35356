"""SGD that freezes columns of a row, in few passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.sgd import sgd


class MaskedSGD:
    """Steps like those of `tasks.sgd_step`, of one client.

    While columns are frozen their velocity is put aside, so that all a step has to do for them is
    to clear their direction: they then move by zero, which keeps their bits.

    Args:
        variables: float32 (1, D), changed in place.
        lr, momentum: of all steps.
    """

    def __init__(self, variables: Tensor, lr: float, momentum: float) -> None:
        self._variables = variables
        self._lr, self._momentum = lr, momentum
        self._velocity = torch.zeros_like(variables)
        self._aside: Tensor | None = None  # the velocity of frozen columns
        self._training: Tensor | None = None  # int32, all bits where columns train; None: all do
        self._cleared: Tensor | None = None

    def freeze(self, mask: Tensor | None) -> None:
        """From now on only the columns `mask` train: bool, (D,) or (1, D); None: all."""
        if self._aside is not None:
            self._velocity += self._aside
            self._aside = None
        self._training = None
        if mask is not None:
            self._training = -mask.expand_as(self._variables).int()
            self._aside = _where(~self._training, self._velocity)
            self._velocity = _where(self._training, self._velocity)
            self._cleared = torch.empty_like(self._variables)

    def step(self, direction: Tensor) -> None:
        """A step against the direction (1, D), the gradient."""
        if self._training is not None:
            direction = _where(self._training, direction, self._cleared)
        # The fused kernel updates velocity and variables in one pass.
        sgd(
            [self._variables],
            [direction],
            [self._velocity],
            fused=True,
            weight_decay=0.0,
            momentum=self._momentum,
            lr=self._lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


def _where(bits: Tensor, numbers: Tensor, out: Tensor | None = None) -> Tensor:
    """The numbers where all bits are set, zero where none is.

    On a CPU this takes a small part of the time of `torch.where` with a mask of scattered columns,
    whose branches no processor can predict; and unlike a product it clears NaN as well.
    """
    place = None if out is None else out.view(torch.int32)
    return torch.bitwise_and(numbers.view(torch.int32), bits, out=place).view(numbers.dtype)
