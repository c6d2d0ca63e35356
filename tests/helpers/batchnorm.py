"""A tiny federation whose model has batch normalization, as ResNet-18 has: rows with buffers."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from fedobp_lib.methods import Federation
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training.backends import make_backend
from fedobp_lib.training.trainer import Trainer
from helpers.literal import CLASSES, tiny_federation


class NormNet(nn.Module):
    """A convolution, batch normalization, a linear classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 5, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.classifier = nn.Linear(4 * 3 * 3, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(images))).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def normalized_federation(backend: str = "loop", **settings: float) -> Federation:
    """The tiny federation of `literal`, with `NormNet`."""
    federation = tiny_federation(backend, **settings)
    torch.manual_seed(3)
    model = NormNet()
    layout = ParameterLayout.of(model)
    data = federation.data
    computes = make_backend(backend, model, layout, data.device)
    trainer = Trainer(computes, data, federation.trainer.settings)
    return replace(federation, initial=layout.flatten(model), layout=layout, trainer=trainer)
