"""What the literal versions of the methods share: a tiny federation of ordinary modules.

A literal version takes one client at a time, holds `nn.Module`s and uses autograd and plain
Python. It shares with the kit the initial weights, the cohorts and the batches, nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fedobp_lib.data.clients import TRAIN, ClientData
from fedobp_lib.data.images import ImageData
from fedobp_lib.data.partition import dirichlet_partition
from fedobp_lib.methods import METHODS, Federation, Method, make_settings
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training.backends import make_backend
from fedobp_lib.training.trainer import LocalSettings, Trainer

SHAPE, CLASSES, CLIENTS = (16, 16, 1), 3, 5

# Client 0 sits out a round, client 4 takes part once, client 3 never.
COHORTS = [[0, 1, 2], [1, 2, 4], [0, 1, 2]]


def tiny_images() -> ImageData:
    """150 images of 16x16 that can be learned."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 150)
    patterns = rng.integers(0, 256, (CLASSES, *SHAPE))
    noise = rng.integers(0, 256, (len(labels), *SHAPE))
    images = ((patterns[labels] + 2 * noise) // 3).astype(np.uint8)
    return ImageData("tiny", images, labels, np.ones(len(labels), bool), CLASSES, "tiny")


def tiny_federation(backend: str = "loop", **settings: float) -> Federation:
    """Five clients with images that can be learned, AvgCNN for 16x16, two epochs of batches of 8.

    Classes are unevenly spread, so that some clients lack a class and some have one sample of it.
    """
    tiny = tiny_images()
    partition = dirichlet_partition(tiny.labels, CLIENTS, 0.3, seed=1)
    mean, std = np.array([0.5], np.float32), np.array([0.25], np.float32)
    data = ClientData(
        tiny.images, tiny.labels, partition, mean, std, CLASSES, torch.device("cpu"), seed=5
    )
    model = build_model("avgcnn", SHAPE, CLASSES, seed=7)
    layout = ParameterLayout.of(model)
    computes = make_backend(backend, model, layout, data.device)
    local = {"epochs": 2, "batch_size": 8, "lr": 0.05, "momentum": 0.7} | settings
    trainer = Trainer(computes, data, LocalSettings(**local))
    return Federation(layout.flatten(model), layout, data, trainer)


def make(name: str, federation: Federation, **settings: object) -> Method:
    """A method of the kit with these settings."""
    return METHODS[name](federation, make_settings(METHODS[name], settings))


def play(method: Method, cohorts: list[list[int]] = COHORTS) -> list[tuple[Tensor, Tensor]]:
    """Rounds as the simulation runs them; (start, trained) of every round."""
    rounds = []
    for number, cohort in enumerate(cohorts, 1):
        clients = torch.tensor(cohort)
        method.round = number
        start, _ = method.start(clients)
        start = start.clone()
        trained = method.train(start, clients)
        method.finish(clients, start, trained)
        rounds.append((start, trained))
    return rounds


def models_before(method: Method, clients: list[int]) -> Tensor:
    """The models (K, size) that are tested before local training."""
    numbers = torch.tensor(clients)
    return method.models(method.start(numbers)[0], numbers)


def module_of(federation: Federation, row: Tensor | None = None) -> nn.Module:
    """An ordinary module with the weights of a row; None: with the initial ones."""
    model = build_model("avgcnn", SHAPE, CLASSES, seed=0)
    copied = federation.initial if row is None else row
    federation.layout.bind(model, copied.clone())
    return copy.deepcopy(model)


def row_of(federation: Federation, model: nn.Module) -> Tensor:
    """The row of a module."""
    return federation.layout.flatten(model)


def batches(
    federation: Federation,
    client: int,
    round_: int,
    purpose: int = TRAIN,
    epochs: int | None = None,
    share: float = 1.0,
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """For each epoch, a client's batches as the kit orders them."""
    settings, data = federation.trainer.settings, federation.data
    images, labels = data.train(client)
    images = images.contiguous()
    count = settings.epochs if epochs is None else epochs
    for order in data.orders(client, round_, purpose, count, share):
        yield [(images[part], labels[part]) for part in order.split(settings.batch_size)]


def weights_of(federation: Federation, cohort: list[int]) -> list[float]:
    """Each client's share of the cohort's training samples (paper, Eq. 2)."""
    sizes = [len(federation.data.partition.train(client)) for client in cohort]
    return [size / sum(sizes) for size in sizes]


def same(ours: Tensor, literal: Tensor, tolerance: float = 1e-5) -> bool:
    """Equal to `tolerance`, relative to the size of the vector."""
    return bool((ours - literal).norm() <= tolerance * literal.norm())
