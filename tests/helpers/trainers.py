"""A trainer for small images."""

from __future__ import annotations

from fedobp_lib.data.clients import ClientData
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training.backends import make_backend
from fedobp_lib.training.trainer import LocalSettings, Trainer


def make_trainer(data: ClientData, backend: str = "loop", **settings) -> Trainer:
    """A trainer with AvgCNN for 28x28 images of three classes."""
    model = build_model("avgcnn", (28, 28, 1), 3, seed=0)
    computes = make_backend(backend, model, ParameterLayout.of(model), data.device)
    return Trainer(computes, data, LocalSettings(**({"epochs": 2, "batch_size": 8} | settings)))
