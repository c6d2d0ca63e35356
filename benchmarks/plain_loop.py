"""A plain PyTorch loop, written as the usual federated-learning benchmarks write it.

NCHW tensors, a float data set in memory with a per-sample normalizing transform behind a
shuffling DataLoader, one model object reloaded for every client, `torch.optim.SGD`. It does
only what FedAvg needs, and nothing slowly on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.transforms import Compose, Normalize

from fedobp_lib.data.partition import Partition


class PlainCNN(nn.Module):
    """AvgCNN in the order the paper prints: convolution, ReLU, pool."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        height, width, channels = shape
        side = [((n - 4) // 2 - 4) // 2 for n in (height, width)]
        self.base = nn.Sequential(
            nn.Conv2d(channels, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(64 * side[0] * side[1], 512), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.base(x))


class InMemory(Dataset):
    """Float images in [0, 1], normalized one by one when they are asked for."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, mean, std) -> None:
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
        self.labels = torch.from_numpy(labels)
        self.transform = Compose([Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


class PlainFedAvg:
    """FedAvg, client after client."""

    def __init__(
        self, data: InMemory, partition: Partition, shape: tuple[int, int, int], classes: int,
        epochs: int = 5, batch_size: int = 32, lr: float = 0.01, momentum: float = 0.7,
    ) -> None:  # fmt: skip
        self.data, self.partition = data, partition
        self.epochs, self.batch_size = epochs, batch_size
        self.model = PlainCNN(shape, classes)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=momentum)
        self.fresh_optimizer = self.optimizer.state_dict()
        self.global_state = {k: v.clone() for k, v in self.model.state_dict().items()}

    def round(self, cohort: Sequence[int]) -> None:
        uploads, weights = [], []
        for client in cohort:
            indices = self.partition.train(client)
            loader = DataLoader(Subset(self.data, indices.tolist()), self.batch_size, shuffle=True)
            self.model.load_state_dict(self.global_state)
            self.optimizer.load_state_dict(self.fresh_optimizer)
            self.model.train()
            for _ in range(self.epochs):
                for x, y in loader:
                    self.optimizer.zero_grad()
                    F.cross_entropy(self.model(x), y).backward()
                    self.optimizer.step()
            uploads.append({k: v.clone() for k, v in self.model.state_dict().items()})
            weights.append(len(indices))
        total = sum(weights)
        self.global_state = {
            key: sum(w / total * upload[key] for w, upload in zip(weights, uploads, strict=True))
            for key in self.global_state
        }

    @torch.no_grad()
    def accuracy(self) -> float:
        """Percent correct over the pooled test samples of all clients, in percent."""
        self.model.load_state_dict(self.global_state)
        self.model.eval()
        right = 0
        for x, y in DataLoader(Subset(self.data, self.partition.test_indices.tolist()), 512):
            right += int((self.model(x).argmax(1) == y).sum())
        return 100 * right / len(self.partition.test_indices)
