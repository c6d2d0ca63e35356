"""The models of many clients as one stack: what they answer, and the gradients of their losses.

`vmap` turns the forward pass of one model into that of all; `stacked_layers` and `convolutions` say
what the layers with weights make of it. Autograd goes back through the result.
"""

from __future__ import annotations

import copy
import time
import types
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..data.clients import ClientData
from ..models.networks import ImageModel
from ..models.parameters import ParameterLayout
from .convolutions import CONVOLUTIONS, with_convolution
from .precision import autocast
from .recording import Recorder
from .stacked_layers import names_of_stacked, set_places

Question = Callable[[ImageModel, Tensor], Any]


class ModelStack:
    """Rows (n, size) as models.

    Args:
        model: supplies the forward pass; its own weights are not used.
        layout: the layout of a row.
        device: where to compute.
        precision: see `BatchedBackend`.
        convolution: one of `CONVOLUTIONS`, or None until `choose_convolution`.

    Attributes:
        plain: the model as it was made, for functions that stack it themselves; in evaluation mode.
    """

    def __init__(
        self,
        model: ImageModel,
        layout: ParameterLayout,
        device: torch.device,
        precision: str,
        convolution: str | None,
    ) -> None:
        self.layout = layout
        self.device = device
        self.precision = precision
        self.convolution = convolution
        self.plain = _prepared(model, device).eval()
        self._models = {kind: with_convolution(self.plain, kind) for kind in CONVOLUTIONS}

    def ask(self, rows: Tensor, images: Tensor, question: Question) -> Any:
        """What models in evaluation mode answer about their images (n, batch, C, H, W)."""
        model = self._model(train=False)
        return self._forward(model, self.layout.views(rows), images, question)

    def gradient(
        self,
        rows: Tensor,
        images: Tensor,
        labels: Tensor,
        weight: Tensor,
        train: bool,
        feature_decay: float = 0.0,
    ) -> Tensor:
        """Gradient (n, size) of every row's weighted loss; buffers in `rows` are updated.

        Args:
            rows: (n, size).
            images, labels: (n, batch, ...).
            weight: (n, batch), of each sample in the loss.
            train: mode of the model.
            feature_decay: see `Task`; for samples whose weight is not 0.
        """
        layout, model = self.layout, self._model(train)
        flat = torch.empty_like(rows)
        if layout.size > layout.parameters:
            flat[:, layout.parameters :].zero_()
        views, places = layout.views(rows.detach()), layout.views(flat)
        if self.precision == "bf16":  # one pass over the rows, not one for every layer
            low = layout.views(rows.to(torch.bfloat16))
            views |= {name: low[name] for name in names_of_stacked(model)}
        trained = [name for name in views if layout.spans[name].start < layout.parameters]
        statistics = {name: views[name] for name in views if train and name not in trained}
        # `vmap` updates a copy of what is not contiguous, and forgets the copy.
        views |= {name: view.contiguous() for name, view in statistics.items()}
        for name in trained:
            views[name].requires_grad_()
        set_places(model, places)
        with torch.enable_grad():
            features, logits = self._forward(model, views, images, _both)
        set_places(model, None)
        # The gradient of the weighted cross entropy.
        error = logits.detach().float().softmax(2).mul_(weight[..., None])
        error.scatter_add_(2, labels[..., None], -weight[..., None])
        of, upstream = [logits], [error.to(logits.dtype)]
        if feature_decay:
            of.append(features)
            upstream.append(2 * feature_decay * features.detach() * (weight > 0)[..., None])
        wanted = [views[name] for name in trained]
        gradients = torch.autograd.grad(of, wanted, upstream, allow_unused=True)
        for name, view in statistics.items():
            view.copy_(views[name])
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:  # else its layer has written it
                places[name].copy_(gradient)
        return flat

    def choose_convolution(
        self, data: ClientData, batch_size: int, clients: int, graphs: bool
    ) -> None:
        """Take the fastest way to compute convolutions here, measured once a device and size.

        Args:
            data: has the images.
            batch_size: of a step.
            clients: of a cohort.
            graphs: time replays, as steps are replayed. A way that fails is no way.

        Raises:
            RuntimeError: every way fails.
        """
        key = (str(self.device), type(self.plain), data.images.shape[1:], self.precision,
               batch_size, clients, graphs)  # fmt: skip
        if key not in _FASTEST:
            seconds: dict[str, float] = {}
            for kind in CONVOLUTIONS:
                self.convolution = kind
                try:
                    seconds[kind] = self._seconds(data, batch_size, clients, graphs)
                except RuntimeError as error:
                    fault = error
            if not seconds:
                raise fault
            _FASTEST[key] = min(seconds, key=lambda kind: seconds[kind])
        self.convolution = _FASTEST[key]

    def _seconds(self, data: ClientData, batch_size: int, clients: int, graphs: bool) -> float:
        """Of a gradient, the least of a few."""
        index = torch.zeros(clients, batch_size, dtype=torch.int64, device=self.device)
        images, labels = data.take(index)
        weight = torch.full_like(labels, 1 / batch_size, dtype=torch.float32)
        rows = torch.zeros(clients, self.layout.size, device=self.device)
        recorder, times = Recorder(self.device), []
        for _ in range(5):
            began = self._clock()
            step = partial(self.gradient, rows, images, labels, weight, train=True)
            if graphs:
                recorder.run("gradient", step, [])
            else:
                step()
            times.append(self._clock() - began)
        return min(times)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _model(self, train: bool) -> ImageModel:
        return self._models[self.convolution or "unfolded"].train(train)

    def _forward(
        self, model: ImageModel, views: dict[str, Tensor], images: Tensor, question: Question
    ) -> Any:
        asked = copy.copy(model)
        asked.forward = partial(question, model)  # type: ignore[method-assign]

        def forward(tensors: dict[str, Tensor], images: Tensor) -> Any:
            return functional_call(asked, tensors, (images,))

        with autocast(self.device, self.precision):
            return vmap(forward)(views, images)


_FASTEST: dict[Hashable, str] = {}


def features(model: ImageModel, images: Tensor) -> Tensor:
    """A question: what the classifier is given."""
    return model.features(images)


def logits(model: ImageModel, images: Tensor) -> Tensor:
    """A question: what the classifier says."""
    return model.classifier(model.features(images))


def _both(model: ImageModel, images: Tensor) -> tuple[Tensor, Tensor]:
    features = model.features(images)
    return features, model.classifier(features)


def _prepared(model: ImageModel, device: torch.device) -> ImageModel:
    model = copy.deepcopy(model).to(device)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.num_batches_tracked = None  # a counter nobody reads, which vmap cannot raise
            module.forward = types.MethodType(_batch_norm, module)
    return model


def _batch_norm(self: nn.modules.batchnorm._NormBase, x: Tensor) -> Tensor:
    """Without cuDNN, whose backward pass `vmap` refuses for channels-last and mixed precisions."""
    out = torch.native_batch_norm(
        x.float(), self.weight, self.bias, self.running_mean, self.running_var,
        self.training, self.momentum or 0.0, self.eps,
    )[0]  # fmt: skip
    return out.to(x.dtype)
