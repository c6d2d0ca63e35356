"""FedDPA (Yang, Huang, Ye, NeurIPS 2023): personal is what a client's Fisher information marks.

A client keeps the model of its last round. In a round, each client of the cohort
1. takes the Fisher information of that model on its own data: for each parameter, the mean of
   the squared gradients of its single samples;
2. scales it to [0, 1] within each tensor; parameters above the threshold are personal;
3. keeps its personal parameters and takes the shared ones from the server;
4. trains the personal parameters alone, for all its epochs, with the constraint
   `lambda_1 / 2 * L` added to the loss (Eq. 9); L is their distance from the client's own
   personal parameters of before the round, so they do not stray far;
5. trains the shared parameters alone, for as many epochs again, with the constraint
   `lambda_2 / 2 * |L - bound|` (Eq. 11); L is their distance from the server's, so that it comes
   near the clipping bound and clipping takes little away;
6. uploads the update of the whole model, clipped and noised if asked, and keeps the model
   itself as it was trained, without noise.
The server adds the plain mean of the updates (Algorithm 1). A distance is a sum over tensors of
lengths, not of their squares, as the authors' code (xiyuanyang45/DynamicPFL) computes it.

That code differs from its paper. It measures both distances from the server's model, the second
one over all parameters (`constraints="code"`); it weights the mean by training samples; and its
defaults of the strengths, 0.1 and 0.05, are the other way round than what Section 4.3 recommends,
which are the defaults here. It trains by Adam; here the federation's SGD does. Clipping and noise
are off, as in the comparison of the FedOBP paper.

The benchmark behind that paper takes the threshold for a quantile of each tensor (at 0.4, 60 % are
personal), trains all parameters at once without constraints, for as many epochs as FedAvg, and
weights the mean by training samples. `benchmark=true` does that. The benchmark moreover takes the
Fisher values on whatever model was trained before, so mostly another client's. That is a slip and
depends on the order in which clients happen to be computed; it is not reproduced: Fisher values
are those of the client's own model in any case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.clients import TRAIN, stream
from ..decoupling import merge, personal_mask, threshold
from ..errors import UserError, unknown
from ..training.tasks import Gradient, Task
from .base import Federation, Method, register

RULES = ("value", "quantile")
CONSTRAINTS = ("paper", "code")


@dataclass(frozen=True)
class FedDPASettings:
    """Hyperparameters of FedDPA; threshold and bound are those of the authors' code.

    Attributes:
        threshold: in [0, 1]; 0.4 also in the FedOBP paper's Appendix B.4.
        rule: `value`: the threshold is one of scaled Fisher values; `quantile`: of each
            tensor's quantile.
        lambda_1: strength of the constraint on personal parameters (Section 4.3: about 0.05).
        lambda_2: strength of the constraint on shared parameters (Section 4.3: about 0.1).
        constraints: `paper`: distances of the parameters that train from where they began;
            `code`: of all parameters from the server's.
        bound: length to which updates are drawn, and clipped if they are.
        clip: shorten uploaded updates to `bound`. The authors do; off here.
        noise: noise multiplier; normal noise of deviation `noise * bound / sqrt(clients)` is
            added to every uploaded parameter. The authors derive it from a privacy budget.
            Buffers of batch normalization are neither clipped nor noised.
        benchmark: as the benchmark behind the FedOBP paper: the rule `quantile`, all parameters
            trained at once without constraints, a weighted mean.
    """

    threshold: float = 0.4
    rule: str = "value"
    lambda_1: float = 0.05
    lambda_2: float = 0.1
    constraints: str = "paper"
    bound: float = 0.5
    clip: bool = False
    noise: float = 0.0
    benchmark: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"the threshold must lie in [0, 1], got {self.threshold}")
        if self.rule not in RULES:
            raise unknown("threshold rule", self.rule, RULES)
        if self.constraints not in CONSTRAINTS:
            raise unknown("form of the constraints", self.constraints, CONSTRAINTS)
        for name in ("lambda_1", "lambda_2", "noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.bound < math.inf:
            raise UserError(f"the bound must be positive, got {self.bound}")
        if self.noise and not self.clip:
            raise UserError("noise protects nothing without clipping; set clip=true as well")
        if self.benchmark and self.clip:
            raise UserError("the benchmark does not clip; set benchmark=false or clip=false")


class PersonalThenShared(Task):
    """Half of the epochs for the personal parameters, half for the shared ones.

    Args:
        sizes: numbers of parameters of the tensors.
        settings: strengths and bound.
        variables: models (K, size).
        given: `personal`, one or zero (K, size), zero in buffer columns, and `anchor`, the models
            (K, size) from which distances are measured.
    """

    def __init__(
        self, sizes: list[int], settings: FedDPASettings, variables: Tensor, **given: Tensor
    ) -> None:
        super().__init__(variables, **given)
        self.sizes, self.settings = sizes, settings

    def phase(self, epoch: int, epochs: int) -> str:
        return "personal" if 2 * epoch < epochs else "shared"

    def mask(self, given: dict[str, Tensor], phase: str) -> Tensor:
        return given["personal"] > 0 if phase == "personal" else given["personal"] == 0

    def direction(
        self, variables: Tensor, given: dict, phase: str, gradient: Gradient, draw: Tensor
    ) -> Tensor:
        direction, columns = gradient(variables), slice(0, sum(self.sizes))
        apart = variables - given["anchor"]
        if self.settings.constraints == "paper":
            personal = given["personal"]
            if phase == "personal":
                apart *= personal
            else:
                apart.addcmul_(apart, personal, value=-1)
        parts = apart[:, columns].split(self.sizes, dim=1)
        lengths = torch.cat([part.norm(dim=1, keepdim=True) for part in parts], dim=1)
        if phase == "personal":
            pull = torch.full_like(lengths[:, :1], self.settings.lambda_1 / 2)
        else:
            beyond = lengths.sum(1, keepdim=True) - self.settings.bound
            pull = self.settings.lambda_2 / 2 * beyond.sign()
        # The gradient of a length; of length zero, zero.
        scales = (pull / lengths.clamp_min(1e-30)).split(1, dim=1)
        places = direction[:, columns].split(self.sizes, dim=1)
        for place, part, scale in zip(places, parts, scales, strict=True):
            place.addcmul_(part, scale)
        return direction


@register("feddpa")
class FedDPA(Method):
    """Element-wise personalization by the client's own Fisher information."""

    title = "FedDPA"
    source = "Yang, Huang, Ye 2023, NeurIPS; code xiyuanyang45/DynamicPFL"
    Settings = FedDPASettings

    def __init__(self, federation: Federation, settings: FedDPASettings | None = None) -> None:
        super().__init__(federation, settings)
        layout = federation.layout
        spans = [s for s in layout.spans.values() if s.start < layout.parameters]
        self.sizes = [span.stop - span.start for span in spans]
        self.rule = "quantile" if self.settings.benchmark else self.settings.rule
        self.state["local"] = self.bank()

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        """A row is the merged model and then, as zeros and ones, which parameters are personal."""
        local = self.state["local"][clients]
        mask = self.personal(local, clients)
        return torch.cat([merge(mask, local, self.global_params), mask], dim=1), mask

    def personal(self, local: Tensor, clients: Tensor) -> Tensor:
        """Bool (K, P): the scaled Fisher information of the models is above the threshold."""
        fisher = self.federation.trainer.fisher(local, clients.tolist())
        masks = []
        for values in fisher.split(self.sizes, dim=1):
            low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
            # Where all values are equal, none stands out: zeros.
            scaled = (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)
            tau = scaled.new_full((len(scaled),), self.settings.threshold)
            if self.rule == "quantile":
                tau = threshold(scaled, self.settings.threshold)
            masks.append(personal_mask(scaled, tau))
        return torch.cat(masks, dim=1)

    def models(self, rows: Tensor, clients: Tensor) -> Tensor:
        return rows[:, : self.federation.layout.size]

    def task(self, start: Tensor, clients: Tensor) -> Task:
        models = self.models(start, clients)
        if self.settings.benchmark:
            return Task(models)
        layout = self.federation.layout
        personal = F.pad(start[:, layout.size :], (0, layout.size - layout.parameters))
        # A round begins with the client's own personal and the server's shared parameters.
        anchor = models
        if self.settings.constraints == "code":
            anchor = self.global_params.expand(len(clients), -1)
        return PersonalThenShared(
            self.sizes, self.settings, models, personal=personal, anchor=anchor
        )

    def train(self, start: Tensor, clients: Tensor, purpose: int = TRAIN) -> Tensor:
        if self.settings.benchmark:
            return super().train(start, clients, purpose)
        trainer = self.federation.trainer
        task, epochs = self.task(start, clients), 2 * trainer.settings.epochs
        return trainer.fit(task, clients.tolist(), self.round, purpose, epochs=epochs)

    @property
    def weighs_samples(self) -> bool:
        """The plain mean in the paper (Algorithm 1); the benchmark weighs it."""
        return self.settings.benchmark

    def keep(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        self.state["local"][clients] = trained

    @property
    def compares(self) -> bool:
        """To clip how far the model has moved from the server's."""
        return self.settings.clip

    def upload(self, clients: Tensor, start: Tensor, trained: Tensor) -> Tensor:
        """The models (K, size) as the server gets them, clipped and noised if asked."""
        if not self.settings.clip:
            return trained
        columns = slice(0, self.federation.layout.parameters)
        update = (trained - self.global_params)[:, columns]
        update = update / (update.norm(dim=1, keepdim=True) / self.settings.bound).clamp_min(1)
        if self.settings.noise:
            data = self.federation.data
            deviation = self.settings.noise * self.settings.bound / math.sqrt(data.clients)
            for row, client in zip(update, clients.tolist(), strict=True):
                # The last number keeps this apart from the client's batches and draws.
                rng = stream(data.seed, TRAIN, self.round, client, 2)
                noise = torch.from_numpy(rng.standard_normal(len(row), dtype="float32"))
                row += deviation * noise.to(row.device)
        uploaded = trained.clone()
        uploaded[:, columns] = self.global_params[columns] + update
        return uploaded
