"""Layers of many models at once, each model with weights of its own, and where gradients go.

`vmap` runs one model's forward pass for all. Where it meets one of these layers it hands over the
stacked tensors, and an ordinary function computes with them, which autograd follows. A linear layer
is one batched matrix product; `convolutions` has the others. The gradients of weights are written
straight to their places in rows of gradients, which saves a copy of all of them.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .precision import rounded_to

Layer = nn.Linear | nn.Conv2d
Whole = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Places:
    """Where the gradients of a layer's weights (K, out, ...) and biases (K, out) belong."""

    weight: Tensor
    bias: Tensor | None


def set_forward(layer: Layer, forward: Callable[[Any, Tensor], Tensor]) -> None:
    """Give a layer another forward pass; no place for its gradients yet."""
    layer.forward = types.MethodType(forward, layer)  # type: ignore[method-assign]
    layer.places = None  # type: ignore[assignment]


def set_places(model: nn.Module, gradients: dict[str, Tensor] | None) -> None:
    """Say where layers write gradients: views of rows (K, ...) by name; None: nowhere.

    From layers that know a place autograd gets no gradient of weights.
    """
    for name, layer in model.named_modules():
        if "places" in vars(layer):
            places = None
            if gradients is not None:
                bias = None if layer.bias is None else gradients[f"{name}.bias"]
                places = Places(gradients[f"{name}.weight"], bias)
            layer.places = places


def names_of_stacked(model: nn.Module) -> list[str]:
    """Names of the weights and biases of such layers."""
    return [
        f"{name}.{kind}"
        for name, layer in model.named_modules()
        if "places" in vars(layer)
        for kind, _ in layer.named_parameters()
    ]


def linear(self: nn.Linear, x: Tensor) -> Tensor:
    """Forward pass of a linear layer in `vmap`."""

    def whole(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        places: Places | None = self.places  # type: ignore[assignment]
        if x.ndim == 3:
            return product(x, weight, bias, places)
        out = product(x.flatten(1, -2), weight, bias, places)
        return out.unflatten(1, x.shape[1:-1])

    return of_stack(self, x, whole)


def of_stack(layer: Layer, x: Tensor, whole: Whole) -> Tensor:
    """In `vmap`: what `whole` makes of the stacked inputs (K, ...), weights and biases.

    In autocast, which does not look into functions of our own, they are rounded beforehand.
    """
    tensors, kind = [x, layer.weight, layer.bias], rounded_to(x.device)
    if kind is not None:
        tensors = [None if t is None else t.to(kind) for t in tensors]
    return _Stacked.apply(*tensors, whole)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, places: Places | None) -> Tensor:
    """Each model's own affine map: of (K, n, in), (K, out, in) and (K, out) the (K, n, out)."""
    return _Product.apply(x, weight, bias, places)


class _Stacked(torch.autograd.Function):
    """Leads from `vmap` to a function of stacked tensors."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, whole: Whole) -> Tensor:
        raise NotImplementedError("layers of a stack are for vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[Tensor, int]:
        *tensors, whole = args
        full = [
            t if t is None or d == 0 else _first(t, d, info.batch_size)
            for t, d in zip(tensors, in_dims, strict=False)
        ]
        return whole(*full), 0


def _first(tensor: Tensor, axis: int | None, count: int) -> Tensor:
    """With the models' axis first; without one, the same tensor for every model."""
    return tensor.expand(count, *tensor.shape) if axis is None else tensor.movedim(axis, 0)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, places: Places | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.places, ctx.has_bias = places, bias is not None
        if bias is None:
            return torch.bmm(x, weight.mT)
        return torch.baddbmm(bias[:, None], x, weight.mT)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        [g] = upstream
        of_x = torch.bmm(g, weight) if ctx.needs_input_grad[0] else None
        if ctx.places is None:
            return of_x, torch.bmm(g.mT, x), g.sum(1) if ctx.has_bias else None, None
        _into(ctx.places.weight, torch.bmm, g.mT, x)
        if ctx.has_bias:
            _into(ctx.places.bias, torch.sum, g, 1)
        return of_x, None, None, None


def _into(place: Tensor, operation: Callable, *args: Any) -> None:
    """Write what an operation gives to its place, without a copy where precisions are the same."""
    if args[0].dtype == place.dtype:
        operation(*args, out=place)
    else:
        place.copy_(operation(*args))
