"""FedOBP: keep the few parameters that differ most from the global model (paper, Alg. 1).

In a round, each client of the cohort
1. scores its last model against the new global one, `(local - global)**2` (Eq. 19),
2. takes the q-quantile of its scores as threshold (Section 3.2),
3. keeps its own parameters above the threshold and takes all others from the server (Eq. 9),
4. trains that merged model on its data (Eq. 10) and uploads it;
the server averages the uploads (Eq. 2). Steps 1 to 3 need only what the server has seen, so in the
cloud-edge version of the paper the server does them (`scoring=server`): it keeps every client's
last upload, scores, thresholds and merges, and sends the merged model. The client then only trains,
and keeps nothing. The numbers are the same.

In step 2 another rule may choose (`select`, see `selection`), step 3 may mix the two values of a
parameter instead of taking one of them (`merge=soft`), and scores may be others (`score`), random
ones as a control among them. With `select=held_out` a client leaves a share of its training samples
out of step 4 for good, and in each step 2 chooses, of a few thresholds, the one whose merged model
has the smallest loss on them.

Where asked, step 1 averages a client's scores over the rounds it took part in (`ema`), as the
authors' main runs did. A test of a client changes nothing here; in their code it adds one more
score to the average. Their code of January 2025 scores by `|(local - global) * local|`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..decoupling import merge, soft_merge, soft_weights
from ..errors import UserError
from ..scoring import (
    distance_score,
    fisher_score,
    gradient_score,
    moving_average,
    normalize,
    obp_score,
    random_score,
    saliency_score,
    taylor_score,
)
from ..selection import RULES, Given, Selection
from .base import Federation, Method, register
from .downlink import differences, merged, unlike
from .fedobp_settings import FedOBPSettings
from .messages import Message
from .traffic import scores_on_server


@register("fedobp")
class FedOBP(Method):
    """Element-wise personalization by importance."""

    title = "FedOBP"
    source = "the reproduced paper; arXiv 2604.16574"
    Settings = FedOBPSettings

    def __init__(self, federation: Federation, settings: FedOBPSettings | None = None) -> None:
        if settings is not None and settings.select == "held_out":
            federation = federation.holding_out(settings.held_out)
        super().__init__(federation, settings)
        quantile, rule = self.settings.quantile, self.settings.quantile_rule
        self.quantile = federation.quantile if quantile is None else quantile
        self.rule = rule or federation.quantile_rule
        layout = federation.layout
        self.columns = slice(0, layout.size if self.settings.buffers else layout.parameters)
        self.scored = self.columns
        if self.settings.scored_part == "classifier":
            self.scored = layout.layers["classifier"]
        if self.settings.scored_part == "biases":
            self.scored = layout.spans["classifier.bias"]
        width = self.scored.stop - self.scored.start
        if (self.settings.count or 0) > width:
            raise UserError(f"the count must be at most {width}, got {self.settings.count}")
        self.state["local"] = self.bank()
        if self.settings.score == "gradient":
            self.state["start"] = self.bank()
        if self.settings.ema:
            count, device = federation.data.clients, federation.initial.device
            self.state["average"] = self.bank(federation.initial.new_zeros(self.columns.stop))
            self.state["scored"] = torch.zeros(count, dtype=torch.bool, device=device)

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        local = self.state["local"][clients]
        layout, kind = self.federation.layout, self.settings.normalization
        scores = normalize(self.averaged(local, clients), layout, kind)

        def losses(tried: Selection) -> Tensor:
            rows, _ = self.combined(scores, tried, local)
            return self.federation.trainer.losses(rows, clients.tolist(), part="held_out")

        given = Given(self.quantile, self.rule, self.settings.count or 0, self.groups, losses)
        chosen = RULES[self.settings.select](scores[:, self.scored], given)
        rows, mask = self.combined(scores, chosen, local)
        if self.settings.downlink == "sparse":
            sent = [differences(row, own) for row, own in zip(rows, mask, strict=True)]
            rows = torch.stack([merged(self.global_params, *parts) for parts in sent])
        return rows, mask[:, : layout.parameters]

    @property
    def groups(self) -> list[slice]:
        """The layers among the scored columns, counted from the first of them."""
        layout, first, end = self.federation.layout, self.scored.start, self.scored.stop
        buffers = [s for s in layout.spans.values() if s.start >= layout.parameters]
        inside = [(max(s.start, first), min(s.stop, end)) for s in layout.layers.values()]
        inside += [(s.start, s.stop) for s in buffers if s.stop <= end]
        return [slice(low - first, high - first) for low, high in inside if low < high]

    def combined(self, scores: Tensor, chosen: Selection, local: Tensor) -> tuple[Tensor, Tensor]:
        """Models (K, size) merged by a selection, and what of them is personal, bool (K, width)."""
        mask = torch.zeros_like(scores, dtype=torch.bool)
        mask[:, self.scored] = chosen.mask
        if self.settings.merge == "hard":
            return merge(mask, local, self.global_params), mask
        part = scores[:, self.scored]
        mask[:, self.scored] = part > chosen.tau
        weights = torch.zeros_like(scores)
        weights[:, self.scored] = soft_weights(part, chosen.tau)
        return soft_merge(weights, local, self.global_params), mask

    def messages_down(self, clients: Tensor, start: Tensor) -> list[Message]:
        """A scoring client gets the server's model; else its own, whole or as its differences.

        Of a personal parameter that has the server's value in any case nothing is sent.
        """
        if self.settings.downlink != "sparse":
            return super().messages_down(clients, start)
        server = self.global_params
        sent = [differences(row, unlike(row, server)) for row in start]
        return [{"model": server, "columns": c, "values": v} for c, v in sent]

    def receive(self, client: Tensor, message: Message) -> tuple[Tensor, Tensor | None]:
        if self.settings.downlink != "sparse":
            return super().receive(client, message)
        return merged(message["model"], message["columns"], message["values"])[None], None

    @property
    def compares(self) -> bool:
        """The gradient score does, where the client takes it."""
        return self.settings.score == "gradient" and not scores_on_server(self)

    def keep(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        if self.settings.ema:
            averages = self.averaged(self.state["local"][clients], clients)
            self.state["average"][clients] = averages
            self.state["scored"][clients] = True
        self.state["local"][clients] = trained
        if "start" in self.state:
            self.state["start"][clients] = start

    def averaged(self, local: Tensor, clients: Tensor) -> Tensor:
        """Scores (K, width), averaged over the clients' rounds where the settings ask for it."""
        scores = self.importance(local, clients)
        if not self.settings.ema:
            return scores
        before, known = self.state["average"][clients], self.state["scored"][clients]
        return moving_average(scores, before, known, self.settings.ema)

    def importance(self, local: Tensor, clients: Tensor) -> Tensor:
        """Scores (K, width) of the clients' last models; larger is more personal.

        The width is P, or with `buffers` the whole row.
        """
        score, columns = self.settings.score, self.columns
        here, there = local[:, columns], self.global_params[columns]
        if score == "obp":
            return obp_score(here, there)
        if score == "saliency":
            return saliency_score(here, there)
        if score == "distance":
            return distance_score(here, there)
        if score == "gradient":
            # Equal rows before a client's first round: no score, so nothing is personal.
            return gradient_score(self.state["start"][clients][:, columns], here)
        if score == "random":
            return random_score(self.federation.data.seed, clients, columns.stop).to(local.device)
        gradient = self.federation.trainer.gradient(local, clients.tolist())
        return fisher_score(gradient) if score == "fisher" else taylor_score(gradient, here, there)
