"""Fisher information the slow way: a forward and a backward pass for every single sample."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedobp_lib.models.parameters import ParameterLayout


def squares_one_by_one(
    model: nn.Module, layout: ParameterLayout, row: Tensor, images: Tensor, labels: Tensor
) -> Tensor:
    """Mean over samples of the squared gradients of their losses (P,), of a model in a row."""
    model = copy.deepcopy(model).eval()
    layout.bind(model, row.clone())
    total = torch.zeros(layout.parameters, dtype=torch.float64)
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        total += layout.join([g.double().square() for g in gradients])
    return (total / len(labels)).float()
