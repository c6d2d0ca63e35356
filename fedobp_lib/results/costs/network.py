"""What one sample costs in a network: FLOPs of its products, and memory for its activations.

A multiply-add counts two FLOPs. A layer's backward pass takes one product for the gradient of its
weights, and one for that of its inputs, which the first layer does without. Everything else in a
network is a few operations a number and is not counted, as by `torch.utils.flop_counter`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ...models.networks import ImageModel
from ...models.parameters import ParameterLayout


@dataclass(frozen=True)
class Flops:
    """FLOPs: all, and those that are left where zero weights and frozen columns cost nothing."""

    dense: float = 0.0
    sparse: float = 0.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.dense + other.dense, self.sparse + other.sparse)

    def __mul__(self, times: float) -> Flops:
        return Flops(times * self.dense, times * self.sparse)


@dataclass(frozen=True)
class Product:
    """A convolution or a linear layer.

    Attributes:
        columns: of its weights in a row.
        places: how often a sample uses each weight: positions of a convolution, else 1.
        first: whether its inputs need no gradient.
    """

    columns: slice
    places: int
    first: bool

    def flops(self, weights: float) -> float:
        """FLOPs of one product for one sample, of so many weights."""
        return 2.0 * self.places * weights


@dataclass(frozen=True)
class Network:
    """What is known of a network.

    Attributes:
        products: its layers with weights, but for batch normalization.
        size: columns of a row.
        parameters: those that train.
        activations: bytes that a sample's forward pass keeps for the backward pass.
        sample: bytes of one sample, as the network takes it.
        classifier: columns of the classifier, weight and bias.
    """

    products: tuple[Product, ...]
    size: int
    parameters: int
    activations: int
    sample: int
    classifier: slice

    @staticmethod
    def of(model: ImageModel, layout: ParameterLayout, shape: tuple[int, int, int]) -> Network:
        """Read a network from its shapes; nothing is computed.

        Args:
            model: the network.
            layout: its layout.
            shape: (height, width, channels) of an image.
        """
        height, width, channels = shape
        model = copy.deepcopy(model).to("meta")
        products: dict[str, Product] = {}

        def note(name: str, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            columns, shape = layout.spans[f"{name}.weight"], layer.get_parameter("weight").shape
            places = output[0].numel() // shape[0]
            products[name] = Product(columns, places, not args[0].requires_grad)

        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(partial(note, name))
        # What does not grow with the batch is no sample's.
        kept = [
            _kept(model, torch.empty(n, channels, height, width, device="meta")) for n in (2, 3)
        ]
        return Network(
            products=tuple(products.values()),
            size=layout.size,
            parameters=layout.parameters,
            activations=kept[1] - kept[0],
            sample=4 * channels * height * width,
            classifier=layout.layers["classifier"],
        )

    @property
    def body(self) -> Network:
        """What is below the classifier."""
        return replace(self, products=self.products[:-1])

    @property
    def head(self) -> Network:
        """The classifier alone, whose row holds nothing else and whose samples are features."""
        start, count = self.classifier.start, self.classifier.stop - self.classifier.start
        last = self.products[-1].columns
        weight = slice(last.start - start, last.stop - start)
        classes = count - (weight.stop - weight.start)
        width = (weight.stop - weight.start) // classes
        only = (Product(weight, 1, first=True),)
        return Network(only, count, count, 4 * classes, 4 * width, slice(0, count))

    def passes(self, row: Tensor, mask: Tensor | None = None) -> tuple[Flops, Flops]:
        """FLOPs of a sample's forward and backward pass.

        A frozen column needs no gradient, and no layer one of its inputs below which all is frozen.

        Args:
            row: (size,), the model.
            mask: bool (size,), the columns that train; None: all.
        """
        forward, backward = Flops(), Flops()
        for p in self.products:
            count = p.columns.stop - p.columns.start
            active = int(row[p.columns].count_nonzero())
            trained = count if mask is None else int(mask[p.columns].count_nonzero())
            of_inputs = not p.first
            goes_on = of_inputs and (mask is None or bool(mask[: p.columns.start].any()))
            forward += Flops(p.flops(count), p.flops(active))
            backward += Flops(
                p.flops(count + of_inputs * count), p.flops(trained + goes_on * active)
            )
        return forward, backward


def _kept(model: ImageModel, images: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the model's own."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in own:
            kept[storage] = tensor
        return tensor

    labels = torch.zeros(len(images), dtype=torch.int64, device="meta")
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        F.cross_entropy(model(images), labels)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
