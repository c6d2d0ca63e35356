"""Who knows what: a client its own samples alone, the server how many each client has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ..config import ResolvedConfig
from ..data.clients import ClientData
from ..data.images import ImageData
from ..data.partition import Partition
from ..federation import assemble
from ..methods import BankPlace, Federation

CPU = torch.device("cpu")

# Only rows of clients that are written take memory: of a client's process its own.
SPARSE = BankPlace("host")


def write_share(
    path: Path, client: int, config: ResolvedConfig, data: ImageData, partition: Partition
) -> None:
    """Write what a client has: its images and labels, and how all pixels are normalized."""
    train, test = partition.train(client), partition.test(client)
    own = np.concatenate([train, test])
    mean, std = data.normalization(config.pixels)
    np.savez(
        path,
        images=data.images[own],
        labels=data.labels[own],
        train=np.array(len(train)),
        classes=np.array(data.classes),
        mean=mean,
        std=std,
    )


def client_federation(path: Path, client: int, config: ResolvedConfig) -> Federation:
    """The federation as a client sees it: all others have no samples.

    It has their numbers, as random streams are those of (seed, purpose, round, client).
    """
    with np.load(path, allow_pickle=False) as share:
        arrays = {name: share[name] for name in share.files}
    train, total = int(arrays["train"]), len(arrays["labels"])
    own = np.arange(total)
    later = np.arange(config.clients + 1) > client
    partition = Partition(own[:train], train * later, own[train:], (total - train) * later)
    data = ClientData(
        arrays["images"], arrays["labels"], partition, arrays["mean"], arrays["std"],
        int(arrays["classes"]), CPU, config.seed,
    )  # fmt: skip
    return assemble(config, data, arrays["images"].shape[1:], "loop", SPARSE)


def server_federation(
    config: ResolvedConfig,
    samples: Mapping[int, tuple[int, int]],
    shape: tuple[int, int, int],
    classes: int,
) -> Federation:
    """The federation as the server sees it: numbers of samples, and no sample.

    Args:
        config: the run.
        samples: of each client, training and test samples; a client that is left out has none.
        shape: (height, width, channels) of an image.
        classes: number of classes.
    """
    counts = np.array([samples.get(client, (0, 0)) for client in range(config.clients)])
    train, test = (np.concatenate([[0], np.cumsum(part)]) for part in counts.T)
    none = np.empty(0, np.int64)
    one = np.ones(shape[2], np.float32)
    data = ClientData(
        np.empty((0, *shape), np.uint8), none, Partition(none, train, none, test), one, one,
        classes, CPU, config.seed,
    )  # fmt: skip
    return assemble(config, data, shape, "loop", SPARSE)
