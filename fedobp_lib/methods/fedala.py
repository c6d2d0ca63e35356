"""FedALA (Zhang et al., AAAI 2023): every client learns how much of the server's model it takes.

A client has an old model, its own after its last local training, and for each parameter of the
upper layers a weight in [0, 1]. In a round, each client of the cohort
1. takes the lower layers from the server as they are,
2. sets each parameter of the upper layers to old + (server - old) * weight,
3. learns the weights by SGD through step 2 on a random part of its data, clipped to [0, 1] after
   each step; the first time until its loss settles, in later rounds in one pass,
4. trains the model that the weights give, and uploads it;
the server averages the uploads. Weights are one at first. Where old and server's model agree, as
in the first round, there is nothing to learn, and the next time counts as the first.

A client that was never selected has the initial model for its old one. All passes of a round see
the same part of the data, each in a new order, with short batches used, not dropped. The loss has
settled when its standard deviation over the last passes is below a threshold. The official code
takes each pass's last batch for it; this kit all training samples after the pass, which is less a
matter of chance, and it ends after some passes in any case. Running statistics of batch
normalization come from the server.

In the official code all clients learn in every round, selected or not: a client that is not
selected learns its weights as well, and what they give becomes its old model. The paper's
Algorithm 1 lets only the cohort do that, and so does this kit by default, as a client that is not
selected otherwise has nothing to do in a round. `everyone=true` is the official code's way; a
round then costs a pass over the data of all clients.

With weights for the classifier alone and no running statistics, learning leaves alone what the
classifier is given: then each client's features are computed once a round, and all passes and
losses take them. They are those of all its samples, though the one pass of a later round needs
those of its part alone.

In the benchmark behind the FedOBP paper all clients share one old model and one set of weights,
those of whoever came before; here each client has its own, as in FedALA's paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.clients import LEARN
from ..errors import UserError
from ..training.tasks import Task
from .base import Federation, Method, added, register
from .messages import Message


@dataclass(frozen=True)
class FedALASettings:
    """Hyperparameters of FedALA.

    Attributes:
        layers: p, number of upper layers with weights (paper: 1, the classifier).
        share: s, part of a client's data on which it learns weights (paper: 80 %).
        eta: learning rate of the weights (paper: 1).
        threshold: the loss has settled when its standard deviation is below (official code: 0.1).
        window: over this many passes (official code: 10; at least one pass more is made).
        passes: at most, the first time; not limited in the official code.
        everyone: whether clients that are not selected learn weights too, as in the official code.
    """

    layers: int = 1
    share: float = 0.8
    eta: float = 1.0
    threshold: float = 0.1
    window: int = 10
    passes: int = 50
    everyone: bool = added(False)

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise UserError(f"FedALA needs at least one layer with weights, got {self.layers}")
        if not 0 < self.share <= 1:
            raise UserError(f"the share must lie in (0, 1], got {self.share}")
        if not (self.eta > 0 and self.threshold > 0):
            raise UserError("eta and threshold must be positive")
        if not (self.window >= 2 and self.passes >= 1):
            raise UserError("window must be at least 2 and passes at least 1")


def blend(server: Tensor, local: Tensor, weights: Tensor, columns: slice) -> Tensor:
    """The server's models (K, size), but in the columns local + (server - local) * weights.

    Args:
        server: (K, size).
        local, weights: (K, D); with weight one a parameter is exactly the server's.
        columns: D of them.
    """
    models = server.clone(memory_format=torch.contiguous_format)
    models[:, columns] = torch.lerp(local, models[:, columns], weights)
    return models


class AggregationWeights(Task):
    """Learns weights (K, D) of the `columns`; given are `global` (K, size) and `local` (K, D)."""

    def __init__(self, weights: Tensor, columns: slice, **given: Tensor) -> None:
        super().__init__(weights, **given)
        self.columns = columns

    def direction(self, variables, given, phase, gradient, draw) -> Tensor:
        server, local = given["global"], given["local"]
        models = blend(server, local, variables, self.columns)
        return gradient(models)[:, self.columns] * (server[:, self.columns] - local)

    def project(self, variables, given) -> None:
        variables.clamp_(0, 1)


@register("fedala")
class FedALA(Method):
    """Rows before training are a model, and behind it the weights that made it."""

    title = "FedALA"
    source = "Zhang et al. 2023, arXiv 2212.01197"
    Settings = FedALASettings
    averages = True

    def __init__(self, federation: Federation, settings: FedALASettings | None = None) -> None:
        super().__init__(federation, settings)
        layout, layers = federation.layout, list(federation.layout.layers.values())
        if self.settings.layers > len(layers):
            raise UserError(f"the model has {len(layers)} layers, not {self.settings.layers}")
        self.columns = slice(layers[-self.settings.layers].start, layout.parameters)
        upper, clients = federation.initial[self.columns], federation.data.clients
        self.state["upper"] = self.bank(upper)  # the old models' upper layers
        self.state["weights"] = self.bank(torch.ones_like(upper))
        self.state["learned"] = torch.zeros(clients, dtype=torch.bool, device=upper.device)

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.learn(clients)
        personal = weights.new_zeros(len(clients), self.federation.layout.parameters).bool()
        personal[:, self.columns] = weights < 1
        return torch.cat([self.blend(weights, clients), weights], dim=1), personal

    def task(self, start: Tensor, clients: Tensor) -> Task:
        return Task(self.models(start, clients))

    def models(self, rows: Tensor, clients: Tensor) -> Tensor:
        return rows[:, : self.federation.layout.size]

    def finish(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        if self.settings.everyone:
            away = torch.ones_like(self.state["learned"])
            away[clients] = False
            # As many at a time as train at a time: all may be too many for the memory.
            for others in away.nonzero()[:, 0].split(len(clients)):
                untrained, _ = self.start(others)
                self.keep(others, untrained, untrained)
        super().finish(clients, start, trained)

    def messages_outside(self, clients: Tensor) -> tuple[list[Message], list[Message]]:
        """To learn weights as well, a client that is not selected gets the model."""
        down, up = super().messages_outside(clients)
        return (
            [{"model": self.global_params}] * len(clients) if self.settings.everyone else down
        ), up

    def keep(self, clients: Tensor, start: Tensor, models: Tensor) -> None:
        """Keep the weights in the rows `start`, and `models` as the clients' old ones."""
        self.state["learned"][clients] = self.state["learned"][clients] | self.differs(clients)
        self.state["weights"][clients] = start[:, self.federation.layout.size :]
        self.state["upper"][clients] = models[:, self.columns]

    def differs(self, clients: Tensor) -> Tensor:
        """Whether a client's old model is another than the server's: bool (K,)."""
        return (self.state["upper"][clients] != self.global_params[self.columns]).any(1)

    def blend(self, weights: Tensor, clients: Tensor) -> Tensor:
        """The models (K, size) that weights (K, D) make; with weight one exactly the server's."""
        server = self.global_params.expand(len(clients), -1)
        return blend(server, self.state["upper"][clients], weights, self.columns)

    def learn(self, clients: Tensor) -> Tensor:
        """The clients' weights (K, D) after this round's learning."""
        chosen, trainer = self.settings, self.federation.trainer
        weights = self.state["weights"][clients]
        losses = weights.new_zeros(chosen.passes, len(clients), dtype=torch.float64)
        active = self.differs(clients).nonzero()[:, 0]
        server, columns, features = self.global_params, self.columns, None
        if chosen.layers == 1 and trainer.features_stay and len(active):
            bodies = server.expand(len(active), -1)
            features = trainer.fixed_features(bodies, clients[active].tolist())
            server, columns = server[columns], slice(0, weights.shape[1])  # classifiers alone
        for number in range(chosen.passes):
            if not len(active):
                break
            there, rows = clients[active], server.expand(len(active), -1)
            given = {"global": rows, "local": self.state["upper"][there]}
            task = AggregationWeights(weights[active], columns, **given)
            sgd = {"epochs": 1, "share": chosen.share, "lr": chosen.eta, "momentum": 0.0}
            place = there.tolist(), self.round, LEARN, features
            weights[active] = trainer.fit(task, *place, skip=number, **sgd)
            active = active[~self.state["learned"][there]]
            if len(active):
                there, rows = clients[active], server.expand(len(active), -1)
                models = blend(rows, self.state["upper"][there], weights[active], columns)
                losses[number, active] = trainer.losses(models, there.tolist(), features)
            if number >= chosen.window:
                latest = losses[number + 1 - chosen.window : number + 1, active]
                active = active[latest.std(0, correction=0) >= chosen.threshold]
        return weights
