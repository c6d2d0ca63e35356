"""Squared gradients of single samples, the pieces of the empirical Fisher information."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ..models.networks import ImageModel
from ..models.parameters import ParameterLayout
from .precision import autocast


def sample_squares(
    model: ImageModel, layout: ParameterLayout, precision: str
) -> Callable[[dict[str, Tensor], Tensor, Tensor, Tensor], Tensor]:
    """A function of one model's tensors, images (n, C, H, W), labels (n,) and weights (n,) that
    gives the weighted sum of the samples' squared gradients, (P,).

    Args:
        model: supplies the forward pass, in evaluation mode.
        layout: of the result.
        precision: of the forward and backward pass.
    """
    names = [name for name in layout.names if layout.spans[name].start < layout.parameters]

    def loss(trainable: dict, buffers: dict, image: Tensor, label: Tensor) -> Tensor:
        with autocast(image.device, precision):
            logits = functional_call(model, {**trainable, **buffers}, (image[None],))
        return F.cross_entropy(logits.float(), label[None])

    def squares(tensors: dict[str, Tensor], images: Tensor, labels: Tensor, weights: Tensor):
        trainable = {name: tensors[name] for name in names}
        buffers = {name: tensor for name, tensor in tensors.items() if name not in trainable}
        each = vmap(grad(loss), (None, None, 0, 0))(trainable, buffers, images, labels)
        return layout.join(
            [torch.einsum("n,n...->...", weights, each[name].square()) for name in names]
        )

    return squares
