"""FedPer (Arivazhagan et al. 2019): the classifier is personal, all below it is averaged.

In a round, each client of the cohort
1. takes all below the classifier from the server, and the classifier from its own last model,
2. trains all of them together on its data,
3. keeps the classifier, and uploads the rest;
the server takes the mean of what was uploaded, weighted by training samples: the base layers are
trained as in FedAvg. Running statistics (ResNet-18) are averaged with them.

The paper leaves open how many layers at the top are personal; here, and in the benchmark behind the
FedOBP paper, it is the classifier alone.

A client keeps its classifier while it is not selected; before its first round that is the initial
one, the same for all. In the benchmark the server averages the classifiers, too, and a client that
was never selected begins with their average.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Federation, Method, column_mask, register


@register("fedper")
class FedPer(Method):
    """A client keeps its own classifier and takes the other layers from the server."""

    title = "FedPer"
    source = "Arivazhagan et al. 2019, arXiv 1912.00818"

    def __init__(self, federation: Federation, settings: Any = None) -> None:
        super().__init__(federation, settings)
        self.columns = federation.layout.layers["classifier"]
        self.mask = column_mask(federation.layout, "classifier", device=federation.initial.device)
        self.body = torch.ones_like(federation.initial, dtype=torch.bool)
        self.body[self.columns] = False
        self.body = self.body.nonzero()[:, 0]
        self.state["classifiers"] = self.bank(federation.initial[self.columns])

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.global_params.repeat(len(clients), 1)
        rows[:, self.columns] = self.state["classifiers"][clients]
        return rows, self.mask

    @property
    def travels(self) -> Tensor:
        return self.body

    def keep(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        self.state["classifiers"][clients] = trained[:, self.columns]
