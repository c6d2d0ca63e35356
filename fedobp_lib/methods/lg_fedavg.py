"""LG-FedAvg (Liang et al. 2020): the representation is local, the classifier is global.

In a round, each client of the cohort
1. takes the classifier from the server and all below it from its own last model,
2. trains both together on its data,
3. keeps all below the classifier, and uploads the classifier;
the server averages the classifiers. It never sees the other layers. The running statistics of
batch normalization (ResNet-18) are below the classifier, so they are local too.

The authors' code keeps the last few layers global, how many depends on the data, takes the plain
mean over clients and begins with a model trained by FedAvg. Here the global part is the classifier
alone, its mean is weighted by training samples, and training begins with the common initial model.
The benchmark behind the FedOBP paper does the opposite: of AvgCNN's layers it keeps the first
convolution global and all above it local.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Federation, Method, column_mask, register


@register("lg-fedavg")
class LGFedAvg(Method):
    """A client keeps its own representation and takes the classifier from the server."""

    title = "LG-FedAvg"
    source = "Liang et al. 2020, arXiv 2001.01523"

    def __init__(self, federation: Federation, settings: Any = None) -> None:
        super().__init__(federation, settings)
        layout = federation.layout
        self.columns = layout.layers["classifier"]
        self.mask = ~column_mask(layout, "classifier", device=federation.initial.device)
        self.state["local"] = self.bank()

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.state["local"][clients]
        rows[:, self.columns] = self.global_params[self.columns]
        return rows, self.mask

    def finish(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        self.state["local"][clients] = trained
        uploaded = trained[:, self.columns]
        self.state["global"][self.columns] = self.average(clients, uploaded)
