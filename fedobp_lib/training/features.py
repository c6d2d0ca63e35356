"""What the bodies of models make of images, kept while only the classifiers train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..data.clients import ClientData
from ..data.partition import Partition


class Features(ClientData):
    """What the bodies of some clients' models make of their training images.

    A client's samples have the same order as its images, so its batches are the same.

    Args:
        data: the clients' images.
        clients: which of them; the others have no samples here.
        features: float32 (samples, width), of every one of these clients.
    """

    def __init__(
        self, data: ClientData, clients: Sequence[int], features: Sequence[Tensor]
    ) -> None:
        vars(self).update(vars(data))
        order = np.argsort(clients)
        counts = np.zeros(data.clients, np.int64)
        counts[list(clients)] = [len(part) for part in features]
        offsets = np.concatenate([[0], counts.cumsum()])
        none = np.zeros(0, np.int64)
        self.partition = Partition(np.arange(offsets[-1]), offsets, none, np.zeros_like(offsets))
        self.images = torch.cat([features[k] for k in order])
        self.labels = torch.cat([data.labels_of(clients[k]) for k in order])

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Samples by their numbers (...): features (..., width) and labels (...)."""
        return self.images[index], self.labels[index]
