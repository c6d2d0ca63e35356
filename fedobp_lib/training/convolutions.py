"""Ways to compute the convolutions of many models at once, each model with weights of its own.

- `grouped`: what `vmap` makes of them, one grouped convolution; its speed differs wildly between
  devices;
- `unfolded`: patches times weights, one batched matrix product. The patches are a strided copy:
  `F.unfold` starts a kernel for every image on a GPU. They are ordered as a row keeps its weights,
  (height, width, channels), so that no weight is ever moved;
- `each`: one ordinary convolution a model; on a GPU their launches cost nothing inside a CUDA
  graph.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.networks import ImageModel
from .stacked_layers import Places, linear, of_stack, product, set_forward

CONVOLUTIONS = ("grouped", "unfolded", "each")


def with_convolution(model: ImageModel, kind: str) -> ImageModel:
    """A copy of the model for `vmap` that computes convolutions in one of the ways `CONVOLUTIONS`.

    Convolutions with groups or with padding given in words are `grouped` in any case.
    """
    model = copy.deepcopy(model)
    forward = {"unfolded": _unfolded, "each": _each}.get(kind)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            set_forward(module, linear)
        elif forward and isinstance(module, nn.Conv2d) and module.groups == 1:
            if isinstance(module.padding, str):
                continue
            set_forward(module, forward)
    return model


@dataclass(frozen=True)
class Window:
    """A convolution's kernel, dilation, padding and stride, each (height, width)."""

    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    stride: tuple[int, ...]

    def patches(self, x: Tensor) -> Tensor:
        """Of images (K, B, C, H, W) the windows, (K, B, h, w, kernel * C), one copy."""
        x = x.movedim(2, 4)
        if any(self.padding):
            top, left = self.padding
            x = F.pad(x, (0, 0, left, left, top, top))
        for axis in (0, 1):
            reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            x = x.unfold(2 + axis, reach, self.stride[axis])[..., :: self.dilation[axis]]
        return x.permute(0, 1, 2, 3, 5, 6, 4).flatten(4)

    def fold(self, patches: Tensor, size: tuple[int, ...]) -> Tensor:
        """The transpose of `patches`: sums windows into images (K, B, C, H, W) of a size."""
        models, images, height, width, length = patches.shape
        area = self.kernel[0] * self.kernel[1]
        x = patches.reshape(models * images, height * width, area, length // area)
        x = x.permute(0, 3, 2, 1).flatten(1, 2)
        x = F.fold(x, size, self.kernel, self.dilation, self.padding, self.stride)
        return x.unflatten(0, (models, images))


def _unfolded(self: nn.Conv2d, x: Tensor) -> Tensor:
    assert not isinstance(self.padding, str)
    window = Window(self.kernel_size, self.dilation, self.padding, self.stride)
    there: Places | None = self.places  # type: ignore[assignment]
    places = there and Places(_flat(there.weight), there.bias)

    def whole(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        patches = _Patches.apply(x, window)
        out = product(patches.flatten(1, 3), _flat(weight), bias, places)
        return out.unflatten(1, patches.shape[1:4]).movedim(4, 2)

    return of_stack(self, x, whole)


def _flat(weight: Tensor) -> Tensor:
    """Weights (K, out, C, h, w) as (K, out, h * w * C), which is how rows hold them."""
    return weight.movedim(2, 4).flatten(2)


class _Patches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        ctx.window, ctx.size = window, x.shape[3:]
        return window.patches(x)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        return ctx.window.fold(upstream[0], ctx.size), None


def _each(self: nn.Conv2d, x: Tensor) -> Tensor:
    assert not isinstance(self.padding, str)
    how = self.stride, self.padding, self.dilation

    def whole(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        biases = [None] * len(x) if bias is None else bias.unbind()
        made = zip(x.unbind(), weight.unbind(), biases, strict=True)
        out = [F.conv2d(images, w, b, *how).movedim(1, 3) for images, w, b in made]
        return torch.stack(out).movedim(4, 2)  # pictures stay channels-last

    return of_stack(self, x, whole)
