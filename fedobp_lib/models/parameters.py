"""The flat layout: every client's model is one row of a float32 matrix.

A row holds the P trainable parameters first, in the order of `model.named_parameters()`,
then the floating-point buffers (the running statistics of batch normalization), which are
averaged like parameters but never scored. Convolution weights lie channels-last inside the
row, so that a view of the row already has the memory format the convolution wants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterLayout:
    """Which columns of a row belong to which named tensor and layer.

    Attributes:
        names: tensor names, parameters first, then buffers.
        shapes: their shapes as the module has them.
        parameters: P, the number of trainable columns.
        size: P plus the buffer columns; the width of a row.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    parameters: int
    size: int

    @classmethod
    def of(cls, model: nn.Module) -> ParameterLayout:
        """Read the layout of `model`."""
        params = list(model.named_parameters())
        buffers = [(n, b) for n, b in model.named_buffers() if b.is_floating_point()]
        tensors = params + buffers
        return cls(
            names=tuple(n for n, _ in tensors),
            shapes=tuple(t.shape for _, t in tensors),
            parameters=sum(p.numel() for _, p in params),
            size=sum(t.numel() for _, t in tensors),
        )

    @cached_property
    def spans(self) -> dict[str, slice]:
        """Columns of each named tensor."""
        spans, start = {}, 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            spans[name] = slice(start, start + shape.numel())
            start += shape.numel()
        return spans

    @cached_property
    def layers(self) -> dict[str, slice]:
        """Trainable columns of each layer (conv1, conv2, fc1, classifier), in order.

        A layer is the first part of a parameter's name; its weight and bias are neighbours.
        """
        layers: dict[str, slice] = {}
        for name, span in self.spans.items():
            if span.start >= self.parameters:
                break
            layer = name.split(".")[0]
            start = layers[layer].start if layer in layers else span.start
            layers[layer] = slice(start, span.stop)
        return layers

    def views(self, row: Tensor) -> dict[str, Tensor]:
        """Named tensors of one row, or of a stack of rows, sharing their memory.

        Args:
            row: float (..., size); the tensors keep the leading axes.
        """
        return {
            name: _view(row[..., span], shape)
            for (name, span), shape in zip(self.spans.items(), self.shapes, strict=True)
        }

    def join(self, tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """A row (P,) of the trainable tensors, given in order with their shapes.

        Args:
            tensors: as said.
            out: where to write the row.
        """
        flat = [(t.movedim(-3, -1) if t.ndim == 4 else t).flatten() for t in tensors]
        return torch.cat(flat, out=out)

    def flatten(self, model: nn.Module) -> Tensor:
        """Copy a model's parameters and buffers into a new row (size,)."""
        state = dict(model.named_parameters()) | dict(model.named_buffers())
        row = torch.empty(self.size, device=next(iter(state.values())).device)
        for name, view in self.views(row).items():
            view.copy_(state[name].detach())
        return row

    def bind(self, model: nn.Module, row: Tensor) -> None:
        """Make `model` live in `row`: its parameters and buffers become views of it.

        Writing to the row changes the model and training the model changes the row.
        """
        views = self.views(row)
        for name, parameter in model.named_parameters():
            parameter.data = views[name]
        for name, buffer in model.named_buffers():
            if name in views:
                buffer.data = views[name]


def _view(flat: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) != 4:
        return flat.unflatten(-1, shape) if shape else flat[..., 0]
    out, channels, height, width = shape
    return flat.unflatten(-1, (out, height, width, channels)).movedim(-1, -3)
