"""Who has which samples: the Dirichlet split over clients and each client's train/test split."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import UserError
from ..paths import expanded
from .npz import read_arrays

ARRAYS = ("train_indices", "train_offsets", "test_indices", "test_offsets")
MAX_DRAWS = 20_000


@dataclass(frozen=True)
class Partition:
    """Samples of every client: client i's are `indices[offsets[i]:offsets[i + 1]]`.

    Attributes:
        train_indices, test_indices: int64, positions in the pooled data set.
        train_offsets, test_offsets: int64 (clients + 1,), starting at 0.
    """

    train_indices: np.ndarray
    train_offsets: np.ndarray
    test_indices: np.ndarray
    test_offsets: np.ndarray

    @property
    def clients(self) -> int:
        return len(self.train_offsets) - 1

    def train(self, client: int) -> np.ndarray:
        """Training samples of a client."""
        return self.train_indices[self.train_offsets[client] : self.train_offsets[client + 1]]

    def test(self, client: int) -> np.ndarray:
        """Test samples of a client."""
        return self.test_indices[self.test_offsets[client] : self.test_offsets[client + 1]]

    @property
    def fingerprint(self) -> str:
        """Hash of the content: two partitions are the same split if and only if it agrees."""
        digest = hashlib.blake2b(digest_size=6)
        for name in ARRAYS:
            array = np.ascontiguousarray(getattr(self, name), dtype="<i8")
            digest.update(f"{name}{len(array)}".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def class_counts(self, labels: np.ndarray, classes: int, part: str = "train") -> np.ndarray:
        """Samples a client has of each class: int64 (clients, classes)."""
        pick = self.train if part == "train" else self.test
        return np.stack(
            [np.bincount(labels[pick(i)], minlength=classes) for i in range(self.clients)]
        )

    def statistics(self, labels: np.ndarray) -> pd.DataFrame:
        """One row a client: samples, classes present, and the share of its largest class."""
        classes = int(labels.max()) + 1
        train = self.class_counts(labels, classes)
        test = self.class_counts(labels, classes, "test")
        both = train + test
        return pd.DataFrame(
            {
                "client": np.arange(self.clients),
                "train_samples": train.sum(1),
                "test_samples": test.sum(1),
                "classes": (both > 0).sum(1),
                "largest_class_percent": 100 * both.max(1) / both.sum(1),
            }
        )

    def save(self, path: str | Path) -> None:
        """Write the four arrays as one .npz, whole or not at all."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(temporary, "wb") as file:
                np.savez_compressed(file, **{name: getattr(self, name) for name in ARRAYS})
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Partition:
        """Read a partition file.

        Raises:
            UserError: the file is missing, unreadable, truncated or not a partition.
        """
        file = expanded(path, "partition")
        try:
            arrays = read_arrays(file, ARRAYS)
        except FileNotFoundError:
            raise UserError(f"there is no partition file {str(path)!r}") from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read {str(path)!r} as a partition ({error}); it must be an .npz "
                f"with {', '.join(ARRAYS)}"
            ) from error
        if any(a.ndim != 1 or a.dtype.kind not in "iu" for a in arrays.values()):
            raise UserError(f"{str(path)!r} must hold four one-dimensional integer arrays")
        return cls(**{name: a.astype(np.int64) for name, a in arrays.items()})

    def check(self, samples: int, source: str = "the partition") -> Partition:
        """Return self if it fits a data set of `samples` images.

        Raises:
            UserError: offsets or indices out of range, a sample used twice, or a client
                without training or test samples.
        """
        for part in ("train", "test"):
            indices = getattr(self, f"{part}_indices")
            offsets = getattr(self, f"{part}_offsets")
            if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(indices):
                raise UserError(f"{source}: the {part} offsets do not span the {part} indices")
            if (np.diff(offsets) <= 0).any():
                client = int(np.argmax(np.diff(offsets) <= 0))
                raise UserError(f"{source}: client {client} has no {part} samples")
            if indices.min() < 0:
                raise UserError(
                    f"{source} names sample {int(indices.min())}; samples are counted from 0"
                )
            if indices.max() >= samples:
                raise UserError(
                    f"{source} names sample {int(indices.max())}, but the data set has only "
                    f"{samples}; it was made for another data set"
                )
        if len(self.train_offsets) != len(self.test_offsets):
            raise UserError(f"{source}: train and test parts have different numbers of clients")
        both = np.concatenate([self.train_indices, self.test_indices])
        if len(np.unique(both)) != len(both):
            raise UserError(f"{source} uses a sample more than once")
        return self


def dirichlet_partition(
    labels: np.ndarray,
    clients: int,
    alpha: float,
    seed: int,
    test_share: float = 0.25,
    min_samples: int = 10,
) -> Partition:
    """Split a data set over clients, class by class, in Dirichlet(alpha) proportions.

    Each class is divided in proportions drawn from a symmetric Dirichlet distribution over the
    clients; the whole draw is repeated until every client has `min_samples`. Then each
    client's samples are shuffled and split.

    Args:
        labels: int (N,), the pooled labels.
        clients: number of clients.
        alpha: concentration; smaller is more heterogeneous.
        seed: the split depends on it and the arguments alone.
        test_share: share of each client's samples that becomes its test part.
        min_samples: smallest number of samples of a client, at least 2.

    Raises:
        UserError: impossible arguments, or no draw met `min_samples`.
    """
    if not (np.isfinite(alpha) and alpha > 0):
        raise UserError(f"alpha must be greater than 0 and finite, got {alpha}")
    if not 0 < test_share < 1:
        raise UserError(f"test_share must lie between 0 and 1, got {test_share}")
    if clients < 1 or min_samples < 2:
        raise UserError("a partition needs at least one client and min_samples of at least 2")
    if clients * min_samples > len(labels):
        raise UserError(
            f"{len(labels)} samples cannot give {clients} clients {min_samples} samples each; "
            "use fewer clients"
        )
    rng = np.random.default_rng([seed, 0xD1])
    owner = _draw_owners(np.asarray(labels), clients, alpha, min_samples, rng)
    train, test = [], []
    for client in range(clients):
        own = rng.permutation(np.flatnonzero(owner == client))
        cut = min(max(round(len(own) * test_share), 1), len(own) - 1)
        test.append(own[:cut])
        train.append(own[cut:])
    return Partition(*_pack(train), *_pack(test))


def _draw_owners(
    labels: np.ndarray, clients: int, alpha: float, min_samples: int, rng: np.random.Generator
) -> np.ndarray:
    """The client of every sample, int64 (N,)."""
    groups = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    for _ in range(MAX_DRAWS):
        held = np.zeros(clients, dtype=np.int64)
        cuts = []
        for group in groups:
            shares = rng.dirichlet(np.full(clients, alpha))
            stops = np.rint(np.cumsum(shares) * len(group)).astype(np.int64)
            stops[-1] = len(group)
            held += np.diff(stops, prepend=0)
            cuts.append(stops)
        if held.min() >= min_samples:
            owner = np.empty(len(labels), dtype=np.int64)
            for group, stops in zip(groups, cuts, strict=True):
                counts = np.diff(stops, prepend=0)
                owner[rng.permutation(group)] = np.repeat(np.arange(clients), counts)
            return owner
    raise UserError(
        f"no Dirichlet({alpha}) draw in {MAX_DRAWS:,} gave each of {clients} clients "
        f"{min_samples} samples; use fewer clients, a larger alpha or a smaller min_samples"
    )


def _pack(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0] + [len(p) for p in parts]).astype(np.int64)
    return np.concatenate(parts).astype(np.int64), offsets
