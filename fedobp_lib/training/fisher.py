"""Squared gradients of single samples, the pieces of the empirical Fisher information.

One forward and one backward pass for many samples give each layer's inputs a and the gradients g
of the samples' losses at its outputs. A sample's gradient of the layer's tensors is made of these:
of a linear layer's weights it is the outer product of g and a, so that its squares sum up to the
matrix product of the squares; of a convolution's weights it is the product of g and the patches of
a; of batch normalization's it is a sum over positions. Only tensors of other layers need a gradient
for each sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..models.networks import ImageModel
from ..models.parameters import ParameterLayout
from .convolutions import Window
from .precision import autocast

# Samples at a time where each needs a gradient of its own.
EACH = 8
# How many numbers the samples' gradients of a convolution may be at a time.
PIECE = 2**18

Norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SampleSquares:
    """Squared gradients of a model's single samples.

    Args:
        model: supplies the forward pass, in evaluation mode; its own weights are not used.
        layout: of rows and results.
        precision: of the forward and backward pass. Sums of squares are computed in fp32.
    """

    def __init__(self, model: ImageModel, layout: ParameterLayout, precision: str) -> None:
        self.model = model
        self.layout = layout
        self.precision = precision
        self._names = [n for n in layout.names if layout.spans[n].start < layout.parameters]
        self._layers = dict(_known_layers(model))

    def mean(self, row: Tensor, images: Tensor, labels: Tensor, chunk: int) -> Tensor:
        """Mean over samples of the squared gradients of their losses: (P,).

        Args:
            row: (size,), a model.
            images: (n, C, H, W).
            labels: (n,).
            chunk: samples in a pass.
        """
        tensors = self.layout.views(row)
        total = torch.zeros(self.layout.parameters, device=row.device)
        for x, y in zip(images.split(chunk), labels.split(chunk), strict=True):
            squares = self._by_layer(tensors, x, y)
            rest = [name for name in self._names if name not in squares]
            if rest:
                squares |= self._one_by_one(rest, tensors, x, y)
            total += self.layout.join([squares[name] for name in self._names])
        return total / len(labels)

    def _by_layer(
        self, tensors: dict[str, Tensor], images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Sums over samples by the names of tensors, of the layers that are known."""
        with _recorded(self._layers) as calls, torch.enable_grad():
            with autocast(images.device, self.precision):
                logits = functional_call(self.model, tensors, (images,))
            loss = F.cross_entropy(logits.float(), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, [call.output for call in calls])
        times = Counter(call.layer for call in calls)
        squares: dict[str, Tensor] = {}
        for call, g in zip(calls, gradients, strict=True):
            if times[call.layer] > 1:  # a sample's gradient is a sum over its uses
                continue
            prefix = f"{call.layer}."
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            made = _squares(self._layers[call.layer], own, call.x.detach().float(), g.float())
            squares |= {prefix + name: square for name, square in made.items() if name in own}
        return squares

    def _one_by_one(
        self, names: list[str], tensors: dict[str, Tensor], images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Sums over samples of the named tensors, by a gradient for each sample."""
        others = {name: tensor for name, tensor in tensors.items() if name not in names}

        def loss(wanted: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
            with autocast(image.device, self.precision):
                logits = functional_call(self.model, {**wanted, **others}, (image[None],))
            return F.cross_entropy(logits.float(), label[None])

        wanted = {name: tensors[name] for name in names}
        squares = {name: torch.zeros_like(tensor) for name, tensor in wanted.items()}
        for x, y in zip(images.split(EACH), labels.split(EACH), strict=True):
            each = vmap(grad(loss), (None, 0, 0))(wanted, x, y)
            for name, square in squares.items():
                square += each[name].square().sum(0)
        return squares


@dataclass
class _Call:
    """One use of a layer in a forward pass."""

    layer: str
    x: Tensor
    output: Tensor


def _known_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers by name whose samples' gradients follow from inputs and outputs."""
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, layer in model.named_modules():
        if any(uses[id(p)] > 1 for p in layer.parameters(recurse=False)):
            continue  # shared with another layer
        if type(layer) is nn.Linear:
            yield name, layer
        elif type(layer) is nn.Conv2d:
            zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
            if layer.groups == 1 and zeros:
                yield name, layer
        elif type(layer) in Norm and layer.running_mean is not None:
            yield name, layer


@contextmanager
def _recorded(layers: dict[str, nn.Module]) -> Iterator[list[_Call]]:
    """The calls of the layers, in the order in which they come."""
    calls: list[_Call] = []

    def hook(name: str):
        def record(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            if not output.requires_grad:
                output.requires_grad_()  # nothing before it is differentiated
            calls.append(_Call(name, args[0], output))
            return output.clone()  # what comes next may work in place

        return record

    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _squares(layer: nn.Module, own: dict[str, Tensor], x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """Sums over samples of a layer's squared gradients.

    Args:
        layer: a known one.
        own: its tensors by name.
        x: inputs (n, ...).
        g: gradients of the samples' losses at the outputs (n, ...).
    """
    if isinstance(layer, nn.Linear):
        if x.ndim > 2:  # a sample has several rows, whose gradients are summed first
            x, g = x.flatten(1, -2), g.flatten(1, -2)
            return {"weight": _of_products(g.mT, x), "bias": g.sum(1).square().sum(0)}
        g = g.square()
        return {"weight": g.mT @ x.square(), "bias": g.sum(0)}
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        window = Window(layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        patches, g = window.patches(x[None])[0].flatten(1, 2), g.flatten(2)
        out, channels, *kernel = own["weight"].shape
        weight = _of_products(g, patches).view(out, *kernel, channels).movedim(-1, 1)
        return {"weight": weight, "bias": g.sum(2).square().sum(0)}
    shape = (1, -1) + (1,) * (x.ndim - 2)
    scale = (own["running_var"] + layer.eps).rsqrt()  # type: ignore[operator]
    normal = (x - own["running_mean"].view(shape)) * scale.view(shape)
    of_weight, of_bias = (t.flatten(2).sum(2) if t.ndim > 2 else t for t in (g * normal, g))
    return {"weight": of_weight.square().sum(0), "bias": of_bias.square().sum(0)}


def _of_products(g: Tensor, x: Tensor) -> Tensor:
    """Sum over samples of the squares of the products of (n, out, places) and (n, places, in)."""
    if g.shape[2] == 1:
        return g[:, :, 0].square().mT @ x[:, 0].square()
    total = g.new_zeros(g.shape[1], x.shape[2])
    count = max(1, PIECE // total.numel())
    for some, inputs in zip(g.split(count), x.split(count), strict=True):
        total += (some @ inputs).square_().sum(0)
    return total
