"""FLUTE (Liu, Shen and Yang 2024): shared representation, personal heads shaped by the server.

Its non-linear form for classification. A head W has a row for each of the m classes. Neural
collapse wants the rows of the classes a client has to form a simplex; the distance to that is

    NC(W) = |W W' / |W W'| - T|,   T = (I - 1 1'/m) / sqrt(m - 1) on the client's classes, else 0

with Frobenius norms. In a round, each client of the cohort
1. takes the representation from the server and its own head,
2. trains the head alone, and in the last epoch head and representation together, on its
   cross entropy + lambda1 NC(W) + lambda2 |W|^2 + lambda3 |features of the batch|^2,
3. uploads both;
the server takes the plain mean of the representations (Algorithm 2) and then moves the heads it
got one step down the gradient of the cohort's mean NC; these heads are what the clients go on
with. Biases belong to the heads, but no regularizer touches them.

How the regularizers are read, which is as in the authors' code: NC is the distance itself, not
its square; the feature term is the squared norm summed over a batch, while the cross entropy is
its mean, so it weighs more in larger batches. That code trains the heads first, as here, but
weights its mean by numbers of samples. A client that was never selected has the initial head
here; there it has the server's averaged one, as its first head is the server's own memory.

The paper makes the representation under-parameterized by few features: in the authors' code the
classifier is given 64 for CIFAR-10. Here it is given those of the federation's model. That code
also has a weight decay of 1e-4, which is no part of the method and is left out.

The benchmark behind the FedOBP paper has the same regularizers and the same server step, but cuts
the features off from the gradient, so its representation is never trained: it measures random
features with personal heads. `benchmark=true` does that. Heads alone train, in all epochs; means
are weighted by training samples; a client that was never selected starts with the mean of the
heads that were last uploaded, before the server's step. When all clients are tested after
fine-tuning, the whole model trains, on the cross entropy alone.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..data.clients import FINE_TUNE, TRAIN
from ..errors import UserError
from ..training.tasks import Gradient, Task
from .base import Federation, Method, column_mask, register
from .messages import Message, bits


@dataclass(frozen=True)
class FluteSettings:
    """Hyperparameters of FLUTE; the values are those of the authors' code.

    Attributes:
        nc_weight: lambda1, of the neural-collapse regularizer.
        head_decay: lambda2, of the squared norm of the head's weights.
        feature_decay: lambda3, of the squared norm of the features, summed over a batch.
        server_lr: step size of the server on the heads.
        body_epochs: how many of the local epochs, the last ones, train the representation too.
        benchmark: never train the representation, as the benchmark behind the FedOBP paper;
            `body_epochs` and `feature_decay` then have no effect.
    """

    nc_weight: float = 0.25
    head_decay: float = 0.0025
    feature_decay: float = 0.0005
    server_lr: float = 0.5
    body_epochs: int = 1
    benchmark: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise UserError(f"{field.name} must not be negative, got {vars(self)[field.name]}")


def simplex(present: Tensor) -> Tensor:
    """The targets T (K, m, m) of clients that have the classes `present`, bool (K, m)."""
    m = present.shape[1]
    centred = torch.eye(m, device=present.device) - 1 / m
    # A single class has nothing to be far from: its target is 0.
    return centred / max(m - 1, 1) ** 0.5 * (present[:, :, None] & present[:, None])


def collapse_gradient(heads: Tensor, target: Tensor) -> Tensor:
    """Gradient of NC at heads (K, m, width) with targets (K, m, m)."""
    gram = heads @ heads.mT
    norm = _norms(gram)
    gram = gram / norm
    away = gram - target
    away = away / _norms(away)
    # Through W W' / |W W'|: only what changes the direction of W W' counts.
    away = away - (away * gram).sum((1, 2), keepdim=True) * gram
    return 2 * (away @ heads) / norm


def _norms(matrices: Tensor) -> Tensor:
    """Frobenius norms (K, 1, 1), kept above zero: at its minimum, NC has no slope."""
    return torch.linalg.matrix_norm(matrices)[:, None, None].clamp(min=1e-12)


class RegularizedTask(Task):
    """Head first, then all, under the three regularizers."""

    def __init__(
        self,
        variables: Tensor,
        target: Tensor,
        head: Tensor,
        weight: slice,
        settings: FluteSettings,
    ) -> None:
        super().__init__(variables, target=target)
        self.head = head
        self.weight = weight
        self.settings = settings
        self.body_epochs = 0 if settings.benchmark else settings.body_epochs
        # Features that are not trained cannot become smaller.
        self.feature_decay = settings.feature_decay if self.body_epochs else 0.0

    def phase(self, epoch: int, epochs: int) -> Hashable:
        return "head" if epoch < epochs - self.body_epochs else "all"

    def mask(self, given: dict[str, Tensor], phase: Hashable) -> Tensor | None:
        return self.head if phase == "head" else None

    def direction(
        self,
        variables: Tensor,
        given: dict[str, Tensor],
        phase: Hashable,
        gradient: Gradient,
        draw: Tensor,
    ) -> Tensor:
        direction = gradient(variables)
        heads = variables[:, self.weight].unflatten(1, (given["target"].shape[1], -1))
        shaping = self.settings.nc_weight * collapse_gradient(heads, given["target"])
        direction[:, self.weight] += (shaping + 2 * self.settings.head_decay * heads).flatten(1)
        return direction


@register("flute")
class Flute(Method):
    """FedPer's division of the model, with neural collapse on both sides."""

    title = "FLUTE"
    source = "Liu, Shen and Yang 2024, arXiv 2406.04596"
    Settings = FluteSettings
    averages = True

    def __init__(self, federation: Federation, settings: FluteSettings | None = None) -> None:
        super().__init__(federation, settings)
        layout, device = federation.layout, federation.initial.device
        self.columns = layout.layers["classifier"]
        self.weight = layout.spans["classifier.weight"]
        self.mask = column_mask(layout, "classifier", device=device)
        buffers = torch.zeros(layout.size - layout.parameters, dtype=torch.bool, device=device)
        self.head = torch.cat([self.mask, buffers])
        self.present = federation.data.class_counts > 0
        self.state["heads"] = self.bank(federation.initial[self.columns])
        clients = federation.data.clients
        self.state["selected"] = torch.zeros(clients, dtype=torch.bool, device=device)

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.global_params.repeat(len(clients), 1)
        heads = self.state["heads"][clients]
        if self.settings.benchmark:
            own = self.state["selected"][clients, None]
            heads = torch.where(own, heads, self.global_params[self.columns])
        rows[:, self.columns] = heads
        return rows, self.mask

    def task(self, start: Tensor, clients: Tensor) -> Task:
        targets = simplex(self.present[clients])
        return RegularizedTask(start, targets, self.head, self.weight, self.settings)

    def train(self, start: Tensor, clients: Tensor, purpose: int = TRAIN) -> Tensor:
        if self.settings.benchmark and purpose == FINE_TUNE:
            trainer = self.federation.trainer
            return trainer.fit(Task(start), clients.tolist(), self.round, purpose)
        return super().train(start, clients, purpose)

    def messages_down(self, clients: Tensor, start: Tensor) -> list[Message]:
        """The representation; the client has its head, as the server sent it back.

        Only in the benchmark a client's first head is one of the server's.
        """
        known = torch.ones_like(self.state["selected"][clients])
        if self.settings.benchmark:
            known = self.state["selected"][clients]
        body = self.global_params[~self.head]
        return [{"model": body if known[k] else self.global_params} for k in range(len(clients))]

    def messages_up(self, clients: Tensor, start: Tensor, trained: Tensor) -> list[Message]:
        """Representation and head, and which classes the client has."""
        sent = super().messages_up(clients, start, trained)
        present = self.present[clients]
        return [m | {"classes": bits(own)} for m, own in zip(sent, present, strict=True)]

    def replies(self, clients: Tensor, received: list[Message]) -> list[Message]:
        """The heads after the server's step."""
        return [{"head": head} for head in self.state["heads"][clients]]

    def kept_by_server(self) -> Message:
        """The representation; a head, the mean of the last ones, in the benchmark alone."""
        model = self.global_params
        return {"model": model if self.settings.benchmark else model[~self.head]}

    def finish(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        super().finish(clients, start, trained)
        shaped = trained.clone()
        heads = trained[:, self.weight].unflatten(1, (self.present.shape[1], -1))
        step = self.settings.server_lr / len(clients)  # of the mean over the cohort
        gradient = collapse_gradient(heads, simplex(self.present[clients]))
        shaped[:, self.weight] -= step * gradient.flatten(1)
        self.state["heads"][clients] = shaped[:, self.columns]
        self.state["selected"][clients] = True

    @property
    def weighs_samples(self) -> bool:
        """The plain mean in the paper (Algorithm 2); the benchmark weighs it."""
        return self.settings.benchmark
