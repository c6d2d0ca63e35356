"""LG-FedAvg (Liang et al. 2020): the representation is local, the classifier is global.

In a round, each client of the cohort
1. takes the global layers from the server and the others from its own last model,
2. trains all of them together on its data,
3. keeps the local layers, and uploads the global ones;
the server averages what was uploaded. It never sees a local layer. The running statistics of batch
normalization (ResNet-18) are local, too, whichever layers are.

Which layers are global is a setting, since the authors' own setups differ. Their paper introduces a
global model that works on local representations, which makes the upper layers global; in their code
for MNIST these are the last three of five. For CIFAR-10 it is the other way round: of LeNet-5 they
share the two convolutions and keep the three linear layers local (`models/Nets.py` of their code
lists the convolutions last, and the last two of that list are global; appendix C.2.2 of the paper
says the same). Here the default is the classifier alone: it is what the paper introduces, in its
plainest form, and the same for every model. `global_layers=conv1,conv2` is the CIFAR-10 setup.

The authors' code takes the plain mean over clients, which have equally many samples there, and
begins with a model trained by FedAvg. Here the mean is weighted by training samples, as in FedAvg,
and training begins with the common initial model.

The benchmark behind the FedOBP paper keeps only the first convolution global
(`global_layers=conv1`). Its server averages the local layers, too, and a client that was never
selected begins with that average; here it begins with the initial ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError, unknown
from .base import Federation, Method, added, column_mask, register
from .messages import Message


@dataclass(frozen=True)
class LGFedAvgSettings:
    """Hyperparameters of LG-FedAvg.

    Attributes:
        global_layers: names of the layers that are averaged, separated by commas, such as
            `conv1,conv2`; all others are local.
    """

    global_layers: str = added("classifier")

    def __post_init__(self) -> None:
        names = self.names
        if not all(names):
            raise UserError(
                f"global_layers must be layer names separated by commas, got {self.global_layers!r}"
            )
        if len(set(names)) < len(names):
            raise UserError(f"global_layers names a layer twice: {self.global_layers!r}")

    @property
    def names(self) -> list[str]:
        """The names one by one."""
        return [name.strip() for name in self.global_layers.split(",")]


@register("lg-fedavg")
class LGFedAvg(Method):
    """A client takes the global layers from the server and keeps its own others."""

    title = "LG-FedAvg"
    source = "Liang et al. 2020, arXiv 2001.01523"
    Settings = LGFedAvgSettings
    averages = True

    def __init__(self, federation: Federation, settings: LGFedAvgSettings | None = None) -> None:
        super().__init__(federation, settings)
        layout, device = federation.layout, federation.initial.device
        for name in self.settings.names:
            if name not in layout.layers:
                raise unknown("layer", name, layout.layers)
        shared = column_mask(layout, *self.settings.names, device=device)
        self.mask = ~shared
        self.columns = shared.nonzero()[:, 0]  # running statistics lie behind, and are never here
        self.state["local"] = self.bank()

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.state["local"][clients]
        rows[:, self.columns] = self.global_params[self.columns]
        return rows, self.mask

    @property
    def travels(self) -> Tensor:
        return self.columns

    def keep(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        self.state["local"][clients] = trained

    def kept_by_client(self, client: int) -> Message:
        local = torch.ones_like(self.global_params, dtype=torch.bool)
        local[self.columns] = False
        return {"local": self.state["local"][client][local]}

    def aggregate(self, clients: Tensor, uploaded: Tensor) -> None:
        self.state["global"][self.columns] = self.average(clients, uploaded)
