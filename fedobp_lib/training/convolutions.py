"""Ways to compute the convolutions of many models at once, each model with weights of its own.

`vmap` turns a convolution into a grouped one, whose speed differs wildly between devices. The
other ways replace the forward pass of every `nn.Conv2d` in a model:

- `unfolded`: patches times weights, which `vmap` turns into one batched matrix product;
- `each`: one ordinary convolution a model; on a GPU their launches cost nothing inside a CUDA
  graph.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.networks import ImageModel

CONVOLUTIONS = ("grouped", "unfolded", "each")


def with_convolution(model: ImageModel, kind: str) -> ImageModel:
    """A copy of the model that computes its convolutions in one of the ways `CONVOLUTIONS`."""
    model = copy.deepcopy(model)
    forward = {"unfolded": _unfolded, "each": _each}.get(kind)
    for module in model.modules():
        if forward and isinstance(module, nn.Conv2d) and module.groups == 1:
            bound = types.MethodType(forward, module)
            module.forward = bound  # type: ignore[method-assign]
    return model


def _unfolded(self: nn.Conv2d, x: Tensor) -> Tensor:
    if isinstance(self.padding, str):
        raise NotImplementedError(f"padding {self.padding!r}; give it as a number")
    height, width = (
        (x.shape[2 + i] + 2 * self.padding[i] - self.dilation[i] * (self.kernel_size[i] - 1) - 1)
        // self.stride[i]
        + 1
        for i in (0, 1)
    )
    patches = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)
    patches = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    weight = self.weight.flatten(1).t()
    out = patches @ weight if self.bias is None else torch.addmm(self.bias, patches, weight)
    return out.view(len(x), height, width, -1).permute(0, 3, 1, 2)


def _each(self: nn.Conv2d, x: Tensor) -> Tensor:
    bias = self.bias
    if torch.is_autocast_enabled(x.device.type):  # it does not look into functions of our own
        kind = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(kind), self.weight.to(kind)
        bias = None if bias is None else bias.to(kind)
    else:
        weight = self.weight
    return _Convolution.apply(x, weight, bias, (self.stride, self.padding, self.dilation))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, how: tuple) -> Tensor:
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, weight, bias, ctx.how = inputs
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple:
        wanted = (ctx.needs_input_grad[0], True, ctx.has_bias)
        gradients = _Backward.apply(upstream, *ctx.saved_tensors, ctx.how, wanted)
        of = iter(gradients)
        return *(next(of) if want else None for want in wanted), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, weight: Tensor, bias: Tensor | None, how: tuple):
        def one(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor]:
            return (_Convolution.apply(x, weight, bias, how),)

        tensors = (x, weight) if bias is None else (x, weight, bias)
        [out] = _one_by_one(one, info.batch_size, in_dims, tensors)
        return out, 0


class _Backward(torch.autograd.Function):
    """The gradients that are wanted, of input, weight and bias."""

    @staticmethod
    def forward(upstream: Tensor, x: Tensor, weight: Tensor, how: tuple, wanted: tuple) -> tuple:
        stride, padding, dilation = how
        gradients = torch.ops.aten.convolution_backward(
            upstream, x, weight, [len(weight)] if wanted[2] else None,
            stride, padding, dilation, False, (0, 0), 1, wanted,
        )  # fmt: skip
        return tuple(g for g, want in zip(gradients, wanted, strict=True) if want)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple:
        raise NotImplementedError("no second derivatives of convolutions")

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple, upstream: Tensor, x: Tensor, weight: Tensor, how: tuple, wanted
    ):
        def one(upstream: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            return _Backward.apply(upstream, x, weight, how, wanted)

        out = _one_by_one(one, info.batch_size, in_dims, (upstream, x, weight))
        return tuple(out), (0,) * len(out)


def _one_by_one(
    one: Callable[..., tuple[Tensor, ...]], count: int, dims: tuple, tensors: tuple[Tensor, ...]
) -> list[Tensor]:
    """What `one` makes of every model's tensors, stacked; pictures stay channels-last."""
    results: list[Tensor] = []
    for k in range(count):
        mine = [t if d is None else t.select(d, k) for t, d in zip(tensors, dims, strict=False)]
        made = one(*mine)
        if not results:
            results = [_stack_like(tensor, count) for tensor in made]
        for result, tensor in zip(results, made, strict=True):
            result[k].copy_(tensor)
    return results


def _stack_like(tensor: Tensor, count: int) -> Tensor:
    if tensor.ndim != 4:
        return tensor.new_empty(count, *tensor.shape)
    first, channels, height, width = tensor.shape
    return tensor.new_empty(count, first, height, width, channels).movedim(-1, -3)
