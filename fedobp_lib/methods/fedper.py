"""FedPer (Arivazhagan et al. 2019): the classifier is personal, all below it is averaged."""

from __future__ import annotations

from typing import Any

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
        self.state["classifiers"] = self.bank()[:, self.columns].clone()

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.global_params.repeat(len(clients), 1)
        rows[:, self.columns] = self.state["classifiers"][clients]
        return rows, self.mask

    def finish(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        self.state["classifiers"][clients] = trained[:, self.columns]
        super().finish(clients, start, trained)
