"""A data set in memory, and the mean and deviation of its pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .. import forks
from ..errors import unknown
from .registry import DATASETS

_COPYING = forks.lock()


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set in memory.

    Attributes:
        name: its name.
        images: uint8 (N, H, W, C).
        labels: int64 (N,), 0-based.
        is_train: bool (N,), the official training part.
        classes: number of classes.
        fingerprint: 12 hex digits of a hash of the content.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    is_train: np.ndarray
    classes: int
    fingerprint: str
    _copies: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and labels on a device; sent there once, however many runs use them."""
        with _COPYING:
            if str(device) not in self._copies:
                images, labels = (
                    torch.from_numpy(np.ascontiguousarray(array)).to(device)
                    for array in (self.images, self.labels)
                )
                self._copies[str(device)] = images, labels
            return self._copies[str(device)]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return self.images.shape[1:]

    def normalization(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel, for pixels scaled to [0, 1].

        Args:
            kind: `benchmark` (the constants of the benchmark behind the paper, where it has
                some) or `data` (measured on the training part).

        Returns:
            Two float32 arrays (C,); the deviation of a constant channel is 1.

        Raises:
            UserError: unknown kind.
        """
        if kind not in ("benchmark", "data"):
            raise unknown("normalization", kind, ("benchmark", "data"))
        spec = DATASETS.get(self.name)
        if kind == "benchmark" and spec is not None and spec.mean is not None:
            return np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
        counts = np.zeros((self.shape[2], 256), np.int64)
        train = np.flatnonzero(self.is_train)
        # In blocks, as bincount makes eight bytes of each pixel.
        for start in range(0, len(train), 4096):
            block = self.images[train[start : start + 4096]]
            for channel, count in enumerate(counts):
                count += np.bincount(block[..., channel].ravel(), minlength=256)
        levels = np.arange(256) / 255
        mean = np.array([np.average(levels, weights=c) for c in counts])
        square = np.array([np.average(levels**2, weights=c) for c in counts])
        std = np.sqrt(np.maximum(square - mean**2, 0))
        return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)
