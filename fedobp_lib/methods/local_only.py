"""Local-Only: every client trains its own model whenever it is selected; nothing is shared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Federation, Method, register


@register("local-only")
class LocalOnly(Method):
    """A client starts from its own last model, at first from the common initial one."""

    title = "Local-Only"
    source = "baseline of the FedOBP paper, Section 4.1"

    def __init__(self, federation: Federation, settings: Any = None) -> None:
        super().__init__(federation, settings)
        self.state["local"] = self.bank()

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        everything = torch.ones(1, dtype=torch.bool, device=clients.device)
        return self.state["local"][clients], everything

    @property
    def travels(self) -> Tensor:
        return torch.empty(0, dtype=torch.int64, device=self.global_params.device)

    def keep(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        self.state["local"][clients] = trained

    def aggregate(self, clients: Tensor, uploaded: Tensor) -> None:
        pass
