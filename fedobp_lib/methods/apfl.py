"""APFL (Deng, Kamani and Mahdavi 2020): each client mixes a model of its own with the global one.

A client has a model v and a weight alpha of its own. Its personalized model is the mixture of
parameters `alpha v + (1 - alpha) w`; it is what is tested. In a round, each client of the cohort
1. takes the server's model as its w,
2. moves alpha once, by a step of gradient descent on its training loss at the mixture,
   `alpha - lr * <gradient at the mixture, v - w>`, and puts it back into [0, 1],
3. trains on each batch w by the gradient at w, and v by alpha times the gradient at the mixture,
   both gradients taken before either has moved,
4. keeps v and alpha, and uploads w; the server takes the plain mean of the w.

In the mean all clients count alike, whatever their numbers of samples: so it is in the paper
(Eq. 8) and in its authors' code (FedTorch). `sample_weights` weighs them as FedAvg does.

What the paper leaves open:
- When in a round alpha moves, and on which data. Here at the beginning, on all training samples
  of the client (models in evaluation mode, no momentum), so alpha does not hang on a single
  batch; that costs a pass over the data. In round 1 v equals w, so alpha stays. The authors' code
  uses the first batch, after its step, with the gradients that it has, and adds a weight decay of
  alpha.
- Running statistics (ResNet-18). They are mixed like parameters; the v part moves by as much as
  the mixture's statistics do.

The authors' code mixes the outputs of the two models instead of their parameters, and moves w
before it computes the gradient for v. The benchmark behind the FedOBP paper mixes outputs and
moves w first, too; besides, it moves w twice on each batch by the same gradient, as its second
step still holds the gradient of the first, and it weighs clients by their samples.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.clients import TRAIN
from ..errors import UserError
from ..training.tasks import Gradient, Task
from .base import Federation, Method, register


@dataclass(frozen=True)
class APFLSettings:
    """Hyperparameters of APFL.

    Attributes:
        alpha: every client's mixing weight at first, in [0, 1]; 0 is the global model, 1 the own
            one. 0.5 as in the authors' code.
        adaptive: whether alpha is learned; if not it stays as it is.
        sample_weights: whether the server weighs clients by their training samples; if not they
            count alike.
    """

    alpha: float = 0.5
    adaptive: bool = True
    sample_weights: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha must lie in [0, 1], got {self.alpha}")


def mix(pairs: Tensor, alpha: Tensor) -> Tensor:
    """The mixtures (K, size) of pairs [v | w] (K, 2 size) with weights alpha (K, 1) of v."""
    own, shared = pairs.tensor_split(2, dim=1)
    return torch.lerp(shared, own, alpha)


class TrainBoth(Task):
    """Trains pairs [v | w] with a fixed `alpha` (K, 1) each.

    Args:
        parameters: P; the columns from there on are running statistics.
    """

    def __init__(self, variables: Tensor, alpha: Tensor, parameters: int) -> None:
        super().__init__(variables, alpha=alpha)
        self.parameters = parameters

    def direction(
        self,
        variables: Tensor,
        given: dict[str, Tensor],
        phase: Hashable,
        gradient: Gradient,
        draw: Tensor,
    ) -> Tensor:
        own, shared = variables.tensor_split(2, dim=1)
        mixture = mix(variables, given["alpha"])
        statistics = mixture[:, self.parameters :].clone()
        at_mixture = gradient(mixture)
        own[:, self.parameters :] += mixture[:, self.parameters :] - statistics
        direction = torch.empty_like(variables)
        torch.mul(at_mixture, given["alpha"], out=direction[:, : own.shape[1]])
        direction[:, own.shape[1] :] = gradient(shared)
        return direction


@register("apfl")
class APFL(Method):
    """A mixture of an own and the global model; a row is [v | w | alpha], of 2 size + 1 columns."""

    title = "APFL"
    source = "Deng, Kamani and Mahdavi 2020, arXiv 2003.13461"
    Settings = APFLSettings

    def __init__(self, federation: Federation, settings: APFLSettings | None = None) -> None:
        super().__init__(federation, settings)
        self.state["own"] = self.bank()
        self.state["alpha"] = federation.initial.new_full(
            (federation.data.clients,), self.settings.alpha
        )

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        everything = torch.ones(1, dtype=torch.bool, device=clients.device)
        own, alpha = self.state["own"][clients], self.state["alpha"][clients, None]
        return torch.cat([own, self.global_params.expand_as(own), alpha], dim=1), everything

    def task(self, start: Tensor, clients: Tensor) -> Task:
        return TrainBoth(start[:, :-1], start[:, -1:], self.federation.layout.parameters)

    def train(self, start: Tensor, clients: Tensor, purpose: int = TRAIN) -> Tensor:
        if self.settings.adaptive:
            start = torch.cat([start[:, :-1], self.adapted(start, clients)], dim=1)
        return torch.cat([super().train(start, clients, purpose), start[:, -1:]], dim=1)

    def adapted(self, start: Tensor, clients: Tensor) -> Tensor:
        """Each client's alpha (K, 1) after its step."""
        trainer, parameters = self.federation.trainer, self.federation.layout.parameters
        gradient = trainer.gradient(self.models(start, clients), clients.tolist())
        own, shared = start[:, :-1].tensor_split(2, dim=1)
        slope = (gradient * (own - shared)[:, :parameters]).sum(1, keepdim=True)
        return (start[:, -1:] - trainer.settings.lr * slope).clamp(0, 1)

    def models(self, rows: Tensor, clients: Tensor) -> Tensor:
        return mix(rows[:, :-1], rows[:, -1:])

    def upload(self, clients: Tensor, start: Tensor, trained: Tensor) -> Tensor:
        return trained[:, :-1].tensor_split(2, dim=1)[1]

    def keep(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        self.state["own"][clients] = trained[:, :-1].tensor_split(2, dim=1)[0]
        self.state["alpha"][clients] = trained[:, -1]

    @property
    def weighs_samples(self) -> bool:
        return self.settings.sample_weights
