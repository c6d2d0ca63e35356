"""The clients' data on the device, and the order in which a client sees its samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .partition import Partition

# Purposes of randomness. Each draw comes from (seed, purpose, round, client), never from
# global state, so that a resumed run and another back-end see the same numbers.
INIT, COHORT, TRAIN, FINE_TUNE, LEARN, SAMPLE, SCORE, HOLD_OUT = range(8)
ATTACKERS, ATTACKS, DELAYS = range(8, 11)


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
        images: uint8 (N, H, W, C), an array or a tensor.
        labels: int64 (N,), likewise.
        partition: the samples of every client.
        mean, std: per channel, for pixels scaled to [0, 1].
        classes: number of classes.
        device: where images and labels are kept.
        seed: seed of the batch orders.

    Attributes:
        partition: the samples that clients train on and are tested on.
        split: the whole split, with what `holding_out` has taken from it.
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        partition: Partition,
        mean: np.ndarray,
        std: np.ndarray,
        classes: int,
        device: torch.device,
        seed: int,
    ) -> None:
        self.images = torch.as_tensor(images).contiguous().to(device)
        self.labels = torch.as_tensor(labels).contiguous().to(device)
        self.partition = self.split = partition
        self.held_out: Sequence[np.ndarray] = ()
        self.classes = classes
        self.device = device
        self.seed = seed
        self.train_counts = torch.from_numpy(np.diff(partition.train_offsets)).to(device)
        self.class_counts = torch.from_numpy(
            partition.class_counts(self.labels.cpu().numpy(), classes)
        ).to(device)
        self._normalization = np.stack([mean, std])
        self._scale = torch.as_tensor(1 / (255 * std), dtype=torch.float32, device=device)
        self._shift = torch.as_tensor(-mean / std, dtype=torch.float32, device=device)

    @property
    def clients(self) -> int:
        return self.partition.clients

    def holding_out(self, share: float) -> ClientData:
        """The same data, of which each client leaves a share of its training samples out.

        They are drawn once for all rounds, at least one and never all of a client's, and count
        nowhere as training samples; `of("held_out", client)` names them.

        Args:
            share: between 0 and 1.

        Raises:
            UserError: a client has a single training sample.
        """
        partition = self.partition
        counts = np.diff(partition.train_offsets)
        if (counts == 1).any():
            client = int(np.argmax(counts == 1))
            raise UserError(
                f"client {client} has a single training sample, so none can be held out"
            )
        stays = np.ones(counts.sum(), bool)
        for client, count in enumerate(counts.tolist()):
            if count:  # else another process has its samples
                held = min(max(round(share * count), 1), count - 1)
                drawn = stream(self.seed, HOLD_OUT, client).choice(count, held, replace=False)
                stays[partition.train_offsets[client] + drawn] = False
        indices = partition.train_indices
        left = np.concatenate([[0], stays.cumsum()])[partition.train_offsets]
        known = len(indices) > 0  # a server apart knows numbers alone
        mean, std = self._normalization
        data = ClientData(
            self.images, self.labels,
            replace(partition, train_indices=indices[stays] if known else indices,
                    train_offsets=left),
            mean, std, self.classes, self.device, self.seed,
        )  # fmt: skip
        data.split = self.split
        if known:
            data.held_out = np.split(indices[~stays], (partition.train_offsets - left)[1:-1])
        return data

    def shares_images(self, other: ClientData) -> bool:
        """Whether sample numbers mean the same normalized images and labels as in `other`."""
        return (
            self.images.data_ptr() == other.images.data_ptr()
            and self.labels.data_ptr() == other.labels.data_ptr()
            and np.array_equal(self._normalization, other._normalization)
        )

    def samples(self, client: int, share: float = 1.0) -> int:
        """How many samples a client's training set, or a share of it, has; at least one."""
        return max(1, int(share * len(self.partition.train(client))))

    def of(self, part: str, client: int) -> np.ndarray:
        """The numbers of a client's `train`, `test` or `held_out` samples."""
        if part == "held_out":
            return self.held_out[client]
        return self.partition.train(client) if part == "train" else self.partition.test(client)

    def labels_of(self, client: int) -> Tensor:
        """Labels of a client's training samples, int64 (n,)."""
        return self.labels[torch.from_numpy(self.partition.train(client)).to(self.device)]

    def train(self, client: int) -> tuple[Tensor, Tensor]:
        """A client's training images (n, C, H, W), normalized, and labels (n,)."""
        return self.take(torch.from_numpy(self.partition.train(client)).to(self.device))

    def test(self, client: int) -> tuple[Tensor, Tensor]:
        """A client's test images (n, C, H, W), normalized, and labels (n,)."""
        return self.take(torch.from_numpy(self.partition.test(client)).to(self.device))

    def orders(
        self,
        client: int,
        round_: int,
        purpose: int,
        epochs: int,
        share: float = 1.0,
        skip: int = 0,
    ) -> Iterator[Tensor]:
        """The client's training samples in a new order for each epoch, on the CPU.

        With a share below 1, the same random part of them in all epochs. With `skip`, the
        epochs that come after the first `skip` ones.
        """
        rng = stream(self.seed, purpose, round_, client)
        used = np.arange(len(self.partition.train(client)))
        if share < 1:
            used = stream(self.seed, SAMPLE, purpose, round_, client).choice(
                used, self.samples(client, share), replace=False
            )
        for epoch in range(skip + epochs):
            order = rng.permutation(len(used))
            if epoch >= skip:
                yield torch.from_numpy(used[order])

    def draws(
        self,
        client: int,
        round_: int,
        purpose: int,
        epochs: int,
        steps: int,
        count: int,
        skip: int = 0,
    ) -> Tensor:
        """Uniform random numbers (epochs, steps, count) for a client's steps, on the CPU.

        With `skip`, those of the epochs that come after the first `skip` ones.
        """
        rng = stream(self.seed, purpose, round_, client, 1)
        drawn = rng.random((skip + epochs, steps, count), dtype=np.float32)
        return torch.from_numpy(drawn[skip:])

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Samples by their numbers (...): normalized images (..., C, H, W) and labels (...)."""
        # Normalized as (..., H, W, C), then seen as (..., C, H, W): that is channels-last memory.
        pixels = torch.addcmul(self._shift, self.images[index].float(), self._scale)
        return pixels.movedim(-1, -3), self.labels[index]
