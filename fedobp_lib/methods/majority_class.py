"""Majority class: each client always answers with its own most frequent training class.

No learning at all. Where a method does not beat this row, its accuracy says nothing about
images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.clients import TRAIN
from .base import Method, register


@register("majority-class")
class MajorityClass(Method):
    """A model whose weights are zero, so that the classifier's bias alone answers."""

    title = "Majority class"
    source = "trivial baseline, of no paper"

    def start(self, clients: Tensor) -> tuple[Tensor, None]:
        favourite = self.federation.data.class_counts[clients].argmax(1)
        rows = torch.zeros_like(self.global_params).repeat(len(clients), 1)
        bias = self.federation.layout.spans["classifier.bias"]
        rows[torch.arange(len(clients), device=rows.device), bias.start + favourite] = 1
        return rows, None

    def train(self, start: Tensor, clients: Tensor, purpose: int = TRAIN) -> Tensor:
        return start

    @property
    def travels(self) -> Tensor:
        return torch.empty(0, dtype=torch.int64, device=self.global_params.device)

    def aggregate(self, clients: Tensor, uploaded: Tensor) -> None:
        pass
