"""FFGG (Mishchenko et al. 2023): fine-tune the local part, then move the global part.

FFGG stands for "fine-tuning followed by global gradient". Each client's model has a local part,
its own (here the classifier), and a global part that the server sends (all else). In a round,
each client of the cohort
1. trains its local part, the global part fixed, until the gradient of the local part is small:
   near a stationary point (Algorithm 1's fine-tuning),
2. variant `gradient`: computes there the gradient of the global part on all its samples and
   sends it; the server steps with the mean gradient (Algorithm 1),
   variant `steps`: trains the global part, the local part fixed, and sends it; the server takes
   the mean (Algorithm 4, Local FFGG).
Clients count alike in these means, whatever their numbers of samples: the paper's objective is
the plain mean over clients. The local part never leaves the client and is where step 1 begins
next time (the official notebooks begin each time from a new one, on convex problems).

The default is `steps` with the federation's number of epochs, so that the global part gets as
much training in a round as with FedAvg or FedPer; `gradient` moves it by one step a round and
needs far more rounds. The paper fine-tunes by steps of full gradients (Algorithm 2); here it is
mini-batch SGD with the federation's learning rate and momentum, which needs fewer passes over
the data. Near is judged after every so many epochs as a client trains in a round: the norm of
the local part's gradient on all samples of the client has to be at most a share of its norm
before fine-tuning. A client that is there stops, and after a number of epochs all do. Running
statistics of batch normalization are averaged with the global part, but follow the data in both
phases. FFGG is not in the benchmark behind the FedOBP paper.

Where the classifier is the local part and there are no running statistics, fine-tuning leaves alone
what the classifier is given. Then each client's features are computed once a round, and its
classifier is trained and judged on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.clients import TRAIN
from ..errors import UserError, unknown
from ..training.features import Features
from ..training.tasks import Task
from .base import Federation, Method, column_mask, register

VARIANTS = ("steps", "gradient")


@dataclass(frozen=True)
class FFGGSettings:
    """Hyperparameters of FFGG; all defaults are ours.

    Attributes:
        variant: `steps` or `gradient`, see above.
        local: the local part: layers, or single tensors such as `classifier.bias`, separated
            by commas.
        tolerance: fine-tuning ends when the norm of the local part's gradient is at most this
            share of what it was; 0 always goes to the last epoch.
        tune_epochs: the most epochs of fine-tuning in a round.
        server_lr: step size of the server, `gradient` only.
    """

    variant: str = "steps"
    local: str = "classifier"
    tolerance: float = 0.1
    tune_epochs: int = 10
    server_lr: float = 0.1

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise unknown("variant", self.variant, VARIANTS)
        if not 0 <= self.tolerance < 1:
            raise UserError(f"the tolerance must lie in [0, 1), got {self.tolerance}")
        if self.tune_epochs < 1:
            raise UserError(f"fine-tuning takes at least one epoch, got {self.tune_epochs}")
        if not self.server_lr > 0:
            raise UserError(f"the server's step size must be positive, got {self.server_lr}")


class Part(Task):
    """SGD on some columns, the others fixed."""

    def mask(self, given: dict[str, Tensor], phase: object) -> Tensor:
        return given["mask"]


@register("ffgg")
class FFGG(Method):
    """Fine-tuning followed by a global gradient, or by local steps."""

    title = "FFGG"
    source = "Mishchenko et al. 2023, arXiv 2305.18285 (TMLR 2025)"
    Settings = FFGGSettings
    averages = True

    def __init__(self, federation: Federation, settings: FFGGSettings | None = None) -> None:
        super().__init__(federation, settings)
        layout = federation.layout
        names = [name.strip() for name in self.settings.local.split(",")]
        tensors = {n: s for n, s in layout.spans.items() if s.start < layout.parameters}
        parts = layout.layers | tensors
        self.personal = column_mask(layout, device=federation.initial.device)
        for name in names:
            if name not in parts:
                raise unknown("layer or tensor", name, parts)
            self.personal[parts[name]] = True
        if self.personal.all():
            raise UserError("the local part of ffgg is the whole model; leave out a layer")
        self.local = F.pad(self.personal, (0, layout.size - layout.parameters))
        self.columns, self.shared = (m.nonzero()[:, 0] for m in (self.local, ~self.local))
        self.only_head = set(names) == {"classifier"}
        self.state["local"] = self.bank(federation.initial[self.columns])

    @property
    def travels(self) -> Tensor:
        return self.shared

    def upload(self, clients: Tensor, start: Tensor, trained: Tensor) -> Tensor:
        """The global part, or its gradient and its running statistics."""
        rows = trained
        if self.settings.variant == "gradient":
            gradients = self.federation.trainer.gradient(trained, clients.tolist())
            rows = torch.cat([gradients, trained[:, gradients.shape[1] :]], dim=1)
        return rows[:, self.travels]

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.global_params.repeat(len(clients), 1)
        rows[:, self.columns] = self.state["local"][clients]
        return rows, self.personal

    def train(self, start: Tensor, clients: Tensor, purpose: int = TRAIN) -> Tensor:
        tuned = self.fine_tune(start, clients, purpose)
        if self.settings.variant == "gradient":
            return tuned
        return self.fit(tuned, clients, ~self.local, purpose)

    def fine_tune(self, start: Tensor, clients: Tensor, purpose: int) -> Tensor:
        """The rows with each local part near a stationary point."""
        rows, trainer = start.clone(), self.federation.trainer
        if not (self.only_head and trainer.features_stay):
            return self.bouts(rows, clients, self.local, purpose)
        features = trainer.fixed_features(start, clients.tolist())
        heads = rows[:, self.columns]
        rows[:, self.columns] = self.bouts(heads, clients, None, purpose, features)
        return rows

    def bouts(
        self,
        rows: Tensor,
        clients: Tensor,
        part: Tensor | None,
        purpose: int,
        features: Features | None = None,
    ) -> Tensor:
        """The rows, changed in place, after SGD until the gradient of each local part is small.

        Args:
            rows: models (K, size); with `features`, classifiers.
            clients: theirs.
            part: the columns of the local part, bool; None: all.
            purpose: see `train`.
            features: of the clients.
        """
        moving = torch.arange(len(clients), device=rows.device)
        goal = self.settings.tolerance * self.slope(rows, clients, part, features)
        every, most = self.federation.trainer.settings.epochs, self.settings.tune_epochs
        for done in range(0, most, every):
            if done:
                slope = self.slope(rows[moving], clients[moving], part, features)
                moving = moving[slope > goal[moving]]
                if not len(moving):
                    break
            # Each bout sees its batches in an order of its own.
            rows[moving] = self.fit(
                rows[moving],
                clients[moving],
                part,
                purpose + 10 * (1 + done // every),
                features=features,
                epochs=min(every, most - done),
            )
        return rows

    def slope(
        self,
        rows: Tensor,
        clients: Tensor,
        part: Tensor | None,
        features: Features | None = None,
    ) -> Tensor:
        """Norm of the gradient of `part` on all samples of each client: (K,); see `bouts`."""
        gradients = self.federation.trainer.gradient(rows, clients.tolist(), features)
        return (gradients if part is None else gradients[:, self.columns]).norm(dim=1)

    def fit(
        self, rows: Tensor, clients: Tensor, part: Tensor | None, purpose: int, **changes: Any
    ) -> Tensor:
        """The rows after SGD on the columns `part`, bool; None: on all.

        Args:
            rows, clients, part, purpose: see `bouts`.
            changes: see `Trainer.fit`.
        """
        task = Task(rows) if part is None else Part(rows, mask=part.expand(len(clients), -1))
        return self.federation.trainer.fit(task, clients.tolist(), self.round, purpose, **changes)

    @property
    def weighs_samples(self) -> bool:
        return False

    @property
    def reference(self) -> Tensor:
        sent = self.global_params.clone()
        if self.settings.variant == "gradient":
            sent[: self.federation.layout.parameters] = 0
        return sent[self.travels]

    def keep(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        self.state["local"][clients] = trained[:, self.columns]

    def aggregate(self, clients: Tensor, uploaded: Tensor) -> None:
        if self.settings.variant == "steps":
            super().aggregate(clients, uploaded)
            return
        mean, parameters = self.average(clients, self.whole(uploaded)), slice(0, len(self.personal))
        step = self.settings.server_lr * mean[parameters]
        mean[parameters] = self.global_params[parameters] - step
        # The server has no local part of its own: those columns stay as they were.
        self.state["global"] = torch.where(self.local, self.global_params, mean)
