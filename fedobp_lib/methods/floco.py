"""FLOCO (Grinwald, Wiesner, Nakajima, NeurIPS 2024, arXiv 2403.03333): a simplex of classifiers.

The server holds one body and several end points of the classifier's weight; every point of the
simplex between them is a classifier, its end points weighted by numbers that sum to one. The
classifier's bias belongs to the body, as in the authors' code. In a round before `tau`,
1. each client of the cohort takes body and end points from the server;
2. in each step of its training it draws a point uniformly from the whole simplex, and the
   gradient at that point goes to the body and, in the point's proportions, to the end points;
3. the server averages bodies and end points, weighted by training samples;
and models are tested at the centre of the simplex.

At the end of round `tau - 1` all clients, also those never selected, train once from the model
that the round began with, so that each gives a gradient signal: the change of its end points.
The server gives each client a point on the simplex (`project`): principal components of these
signals, brought onto the simplex at the scale that spreads the clients best. Only the cohort's
training enters the server's model. From round `tau` on, each client draws its points from the
L1 ball of radius `rho` around its own point, as the authors' code draws them: a uniform
direction from a cube, a uniform length; the weights then need not sum to one. Its model is
tested at its own point. FLOCO+, with a further local copy, is not the method compared.

The paper's experiments have 20 end points and regions of radius 0.1. The authors' Flower baseline
has 10 end points, and a radius of 0.1 for five folds of classes and 0.3 for a Dirichlet partition
with alpha 0.5, which is as uneven as the mildest that is compared here. The paper's values are
the defaults; `endpoints=10 rho=0.3` are Flower's.

The benchmark behind the FedOBP paper has the authors' first code, with 10 end points, radius 0.1
and `tau` 10 unless set: `endpoints=10 rho=0.1 tau=11`. It counts rounds from 0, so its round
10 is round 11 here. It takes the signals at the beginning of that round, from a model one round
newer than this kit does, and does not turn their sign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.clients import INIT, stream
from ..errors import UserError
from ..models.parameters import ParameterLayout
from ..training.tasks import Gradient, Task
from .banks import Bank
from .base import Federation, Method, register
from .messages import Message
from .simplex import project


@dataclass(frozen=True)
class FlocoSettings:
    """Hyperparameters of FLOCO; the defaults are those of the paper's experiments.

    Attributes:
        endpoints: M, of the simplex (paper: 20; Flower baseline and benchmark: 10).
        tau: the first round with a region for every client, counted from 1; None: half of the
            run's rounds, as the paper's 250 of 500.
        rho: radius of a client's region (paper and benchmark: 0.1; Flower baseline: 0.3 for a
            Dirichlet partition, 0.1 for five folds).
    """

    endpoints: int = 20
    tau: int | None = None
    rho: float = 0.1

    def __post_init__(self) -> None:
        if self.endpoints < 2:
            raise UserError(f"a simplex needs at least 2 endpoints, got {self.endpoints}")
        if self.tau is not None and self.tau < 2:
            raise UserError(f"tau must be at least 2, as a round comes before it; got {self.tau}")
        if not 0 <= self.rho < math.inf:
            raise UserError(f"rho must not be negative, got {self.rho}")


class Simplex(Task):
    """Trains body and end points at a random point in each step.

    Args:
        layout: of a model.
        radius: of the region around the client's point; None: draw from the whole simplex.
        variables: (K, size + endpoints * W), a model, then the W weights of each end point. The
            model's own columns of the classifier's weight are not used.
        center: (K, endpoints), the clients' points.
    """

    def __init__(
        self, layout: ParameterLayout, radius: float | None, variables: Tensor, center: Tensor
    ) -> None:
        super().__init__(variables, center=center)
        self.layout, self.radius = layout, radius
        self.draws = center.shape[1] + 1

    def direction(
        self, variables: Tensor, given: dict, phase: None, gradient: Gradient, draw: Tensor
    ) -> Tensor:
        point = self.point(draw, given["center"])
        models = at(variables, point, self.layout)
        body = gradient(models)
        buffers = slice(self.layout.parameters, self.layout.size)
        variables[:, buffers] = models[:, buffers]
        weight = self.layout.spans["classifier.weight"]
        ends = point[:, :, None] * body[:, None, weight]
        body[:, weight] = 0
        return torch.cat([body, ends.flatten(1)], dim=1)

    def point(self, draw: Tensor, center: Tensor) -> Tensor:
        """Uniform random numbers (K, endpoints + 1) as weights (K, endpoints) of end points."""
        each, length = draw[:, :-1], draw[:, -1:]
        if self.radius is None:
            # Exponential numbers, divided by their sum, are uniform on the simplex.
            return F.normalize(-torch.log1p(-each), p=1, dim=1)
        return center + self.radius * length * F.normalize(2 * each - 1, p=1, dim=1)


@register("floco")
class Floco(Method):
    """A body and a simplex of classifiers for all, a region of the simplex for each client."""

    title = "FLOCO"
    source = "Grinwald, Wiesner, Nakajima 2024, arXiv 2403.03333; Flower's baselines/floco"
    Settings = FlocoSettings

    def __init__(self, federation: Federation, settings: FlocoSettings | None = None) -> None:
        super().__init__(federation, settings)
        self.tau = self.settings.tau or max(2, federation.rounds // 2)
        layout, initial, data = federation.layout, federation.initial, federation.data
        self.weight = layout.spans["classifier.weight"]
        shape = layout.shapes[layout.names.index("classifier.weight")]
        # Every end point begins with Xavier's normal weights, each with its own.
        rng = stream(data.seed, INIT, 1)
        normal = rng.standard_normal((self.settings.endpoints, shape.numel()), dtype="float32")
        ends = torch.from_numpy(normal).to(initial) * math.sqrt(2 / sum(shape))
        center = ends.new_full((data.clients, len(ends)), 1 / len(ends))
        self.state |= {"ends": ends, "centers": center}
        self.state["projected"] = ends.new_zeros(())  # 1 once clients have regions
        self.global_params[self.weight] = ends.mean(0)

    def start(self, clients: Tensor) -> tuple[Tensor, None]:
        """A row is a model, here the simplex's centre, and then all end points."""
        row = torch.cat([self.global_params, self.state["ends"].flatten()])
        return row.expand(len(clients), -1), None

    def task(self, start: Tensor, clients: Tensor) -> Task:
        radius = self.settings.rho if self.state["projected"] else None
        return Simplex(self.federation.layout, radius, start, self.state["centers"][clients])

    def models(self, rows: Tensor, clients: Tensor) -> Tensor:
        return at(rows, self.state["centers"][clients], self.federation.layout)

    def finish(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        if self.round == self.tau - 1:
            signals = self.signals(clients, start, trained)
            self.state["centers"].copy_(project(signals, self.settings.endpoints))
            self.state["projected"].fill_(1)
        model, ends = self.average(clients, trained).tensor_split([self.federation.layout.size])
        self.state["global"].copy_(model)
        self.state["ends"].copy_(ends.view_as(self.state["ends"]))
        self.global_params[self.weight] = self.state["ends"].mean(0)

    def messages_down(self, clients: Tensor, start: Tensor) -> list[Message]:
        """Body and all end points; once clients have regions, the client's own point as well."""
        sent = [self.parts(row) for row in start]
        if self.state["projected"]:
            points = self.state["centers"][clients]
            sent = [m | {"point": point} for m, point in zip(sent, points, strict=True)]
        return sent

    def messages_up(self, clients: Tensor, start: Tensor, trained: Tensor) -> list[Message]:
        """Body and all end points; what these have changed is the client's signal."""
        samples = self.federation.data.train_counts[clients]
        return [
            self.parts(row) | {"samples": count}
            for row, count in zip(trained, samples, strict=True)
        ]

    def messages_outside(self, clients: Tensor) -> tuple[list[Message], list[Message]]:
        """In round `tau - 1` all others, too, train once, and send their signals."""
        if self.round != self.tau - 1:
            return super().messages_outside(clients)
        start, _ = self.start(clients)
        change = (start - self.train(start, clients))[:, self.federation.layout.size :]
        return [self.parts(row) for row in start], [{"ends": row} for row in change]

    def parts(self, row: Tensor) -> Message:
        """What travels of a row: all but the model's own weight of the classifier."""
        size = self.federation.layout.size
        body = torch.cat([row[: self.weight.start], row[self.weight.stop : size]])
        return {"model": body, "ends": row[size:]}

    def kept_by_client(self, client: int) -> Message:
        return {}

    def kept_for_client(self, client: int) -> Message:
        return {"point": self.state["centers"][client]}

    def kept_by_server(self) -> Message:
        return self.parts(torch.cat([self.global_params, self.state["ends"].flatten()]))

    def signals(self, clients: Tensor, start: Tensor, trained: Tensor) -> Tensor | Bank:
        """A bank (clients, D), for every client how training moves the end points, sign turned.

        The cohort has trained already; the others do now.

        Args:
            clients: int64 (K,), the cohort.
            start, trained: its rows before and after training.
        """
        size, count = self.federation.layout.size, self.federation.data.clients
        signals = self.bank(torch.zeros_like(self.state["ends"]).flatten())
        signals[clients] = (start - trained)[:, size:]
        away = torch.ones(count, dtype=torch.bool, device=clients.device)
        away[clients] = False
        # As many at a time as train at a time: all may be too many for the memory.
        for others in away.nonzero().flatten().split(len(clients)) if away.any() else ():
            begun, _ = self.start(others)
            signals[others] = (begun - self.train(begun, others))[:, size:]
        return signals


def at(rows: Tensor, point: Tensor, layout: ParameterLayout) -> Tensor:
    """The models (K, size) at points (K, endpoints) of the simplices in `rows`."""
    models = rows[:, : layout.size].clone()
    ends = rows[:, layout.size :].unflatten(1, (point.shape[1], -1))
    models[:, layout.spans["classifier.weight"]] = torch.einsum("ke,kew->kw", point, ends)
    return models
