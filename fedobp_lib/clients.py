"""The clients' data on the device, and the order in which a client sees its samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .partition import Partition

# Purposes of randomness. Each draw comes from (seed, purpose, round, client), never from
# global state, so that a resumed run and another back-end see the same numbers.
INIT, COHORT, TRAIN, FINE_TUNE = range(4)


def stream(seed: int, purpose: int, *where: int) -> np.random.Generator:
    """The random generator of one purpose at one place (round, client)."""
    return np.random.default_rng([seed, purpose, *where])


def sample_cohort(seed: int, round_: int, clients: int, size: int) -> np.ndarray:
    """The clients of a round, sorted; the same for every method with this seed."""
    drawn = stream(seed, COHORT, round_).choice(clients, size, replace=False)
    return np.sort(drawn)


class ClientData:
    """Images stay on the device as uint8 and are normalized when a client needs them.

    Args:
        images: uint8 (N, H, W, C).
        labels: int64 (N,).
        partition: the samples of every client.
        mean, std: per channel, for pixels scaled to [0, 1].
        classes: number of classes.
        device: where images and labels are kept.
        seed: seed of the batch orders.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        partition: Partition,
        mean: np.ndarray,
        std: np.ndarray,
        classes: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self.images = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        self.labels = torch.from_numpy(np.ascontiguousarray(labels)).to(device)
        self.partition = partition
        self.classes = classes
        self.device = device
        self.seed = seed
        self.train_counts = torch.from_numpy(np.diff(partition.train_offsets)).to(device)
        self.class_counts = torch.from_numpy(partition.class_counts(labels, classes)).to(device)
        self._scale = torch.as_tensor(1 / (255 * std), dtype=torch.float32, device=device)
        self._shift = torch.as_tensor(-mean / std, dtype=torch.float32, device=device)

    @property
    def clients(self) -> int:
        return self.partition.clients

    def samples(self, client: int) -> int:
        """How many training samples a client has."""
        return len(self.partition.train(client))

    def train(self, client: int) -> tuple[Tensor, Tensor]:
        """A client's training images (n, C, H, W), normalized, and labels (n,)."""
        return self._take(self.partition.train(client))

    def test(self, client: int) -> tuple[Tensor, Tensor]:
        """A client's test images (n, C, H, W), normalized, and labels (n,)."""
        return self._take(self.partition.test(client))

    def orders(self, client: int, round_: int, purpose: int, epochs: int) -> Iterator[Tensor]:
        """One permutation of the client's training samples for each epoch."""
        rng = stream(self.seed, purpose, round_, client)
        count = self.samples(client)
        for _ in range(epochs):
            yield torch.from_numpy(rng.permutation(count)).to(self.device)

    def _take(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        index = torch.from_numpy(indices).to(self.device)
        # Normalized as (n, H, W, C), then seen as (n, C, H, W): that is channels-last memory.
        pixels = torch.addcmul(self._shift, self.images[index].float(), self._scale)
        return pixels.permute(0, 3, 1, 2), self.labels[index]
