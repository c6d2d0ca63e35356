"""Accuracy of clients' models on their own test data, client by client.

Every number the kit reports says which of each it is:

- stage: `before` (the model a client starts a round with, merged but not yet trained) or
  `after` (the same model after the client's local training);
- scope: `cohort` (the clients of the round) or `all` (every client);
- average: `client_mean` (mean over clients of each client's accuracy) or `pooled` (share of
  correct answers among all test samples together).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .trainer import Trainer

STAGES = ("before", "after")
SCOPES = ("cohort", "all")
AVERAGES = ("client_mean", "pooled")


@dataclass(frozen=True)
class Scores:
    """Test results of K clients.

    Attributes:
        correct: int64 (K,), test samples classified correctly.
        loss: float64 (K,), cross entropy summed over test samples, in nats.
        samples: int64 (K,), test samples.
    """

    correct: Tensor
    loss: Tensor
    samples: Tensor

    @property
    def accuracy(self) -> Tensor:
        """Accuracy of each client in percent: float64 (K,)."""
        return 100 * self.correct.double() / self.samples

    def summary(self) -> dict[str, tuple[float, float]]:
        """(accuracy in percent, mean loss in nats) for each average; of no client, NaN."""
        total = self.samples.sum()
        return {
            "client_mean": (
                self.accuracy.mean().item(),
                (self.loss / self.samples).mean().item(),
            ),
            "pooled": (
                (100 * self.correct.sum().double() / total).item(),
                (self.loss.sum() / total).item(),
            ),
        }

    @staticmethod
    def join(parts: Sequence[Scores]) -> Scores:
        """The results of several groups of clients, one after another."""
        return Scores(
            *(torch.cat([getattr(p, f) for p in parts]) for f in ("correct", "loss", "samples"))
        )


def evaluate(trainer: Trainer, rows: Tensor, clients: Sequence[int]) -> Scores:
    """Test each row on its client's test data.

    Args:
        trainer: supplies the model and the data.
        rows: float (K, size).
        clients: their K numbers.
    """
    correct, losses = trainer.test(rows, clients)
    samples = torch.tensor([len(trainer.data.partition.test(int(c))) for c in clients])
    return Scores(correct.cpu(), losses.cpu(), samples)
