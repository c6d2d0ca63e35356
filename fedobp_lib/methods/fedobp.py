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

Where asked, step 1 averages a client's scores over the rounds it took part in (`ema`), as the
authors' main runs did. A test of a client changes nothing here; in their code it adds one more
score to the average. Their code of January 2025 scores by `|(local - global) * local|`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..decoupling import QUANTILE_RULES, merge, personal_mask, threshold
from ..errors import UserError, unknown
from ..scoring import (
    NORMALIZATIONS,
    SCORES,
    fisher_score,
    gradient_score,
    moving_average,
    normalize,
    obp_score,
    saliency_score,
)
from .base import Federation, Method, added, register
from .downlink import DOWNLINKS, differences, merged, unlike
from .messages import Message
from .traffic import scores_on_server

SIDES = ("client", "server")


@dataclass(frozen=True)
class FedOBPSettings:
    """Hyperparameters of FedOBP.

    Attributes:
        quantile: q in [0, 1]; the share of parameters taken from the server. None: the value
            of the paper's Table 5 for the data set and alpha, else 0.9995.
        score: `obp` (Eq. 19), `gradient` (Eq. 5), `fisher` (Eq. 6), or `saliency` (what the
            authors' code of January 2025 computes).
        normalization: `none`, `layer`, `tensor` or `global` (Appendix C.5).
        ema: weight of a client's average score so far, in [0, 1); 0: this round's score alone.
        classifier_only: score and personalize the classifier alone (Appendix C.5); the
            quantile is then one of the classifier's scores.
        buffers: score and personalize the running statistics of batch normalization like
            parameters, as the benchmark behind the paper does on ResNet-18.
        quantile_rule: `linear` or `inverted_cdf`; None: the protocol's.
        scoring: who takes steps 1 to 3: `client`, or `server`, as in the cloud-edge version of
            the paper. The numbers are the same.
        downlink: what a scoring server sends: `merged`, each client's model, or `sparse`, its
            own model to all and to each client its personal parameters.
    """

    quantile: float | None = None
    score: str = "obp"
    normalization: str = "none"
    ema: float = added(0.0)
    classifier_only: bool = False
    buffers: bool = added(False)
    quantile_rule: str | None = None
    scoring: str = added("client")
    downlink: str = added("merged")

    def __post_init__(self) -> None:
        if self.quantile is not None and not 0 <= self.quantile <= 1:
            raise UserError(f"the quantile must lie in [0, 1], got {self.quantile}")
        if self.score not in SCORES:
            raise unknown("score", self.score, SCORES)
        if self.normalization not in NORMALIZATIONS:
            raise unknown("normalization", self.normalization, NORMALIZATIONS)
        if not 0 <= self.ema < 1:
            raise UserError(f"ema must lie in [0, 1), got {self.ema}")
        if self.buffers and (self.classifier_only or self.score == "fisher"):
            raise UserError(
                "buffers have no Fisher score and are no part of the classifier; use score=obp"
            )
        if self.quantile_rule not in (None, *QUANTILE_RULES):
            raise unknown("quantile rule", self.quantile_rule, QUANTILE_RULES)
        if self.scoring not in SIDES:
            raise unknown("side that scores", self.scoring, SIDES)
        if self.downlink not in DOWNLINKS:
            raise unknown("downlink", self.downlink, DOWNLINKS)
        if self.scoring == "server" and self.score == "fisher":
            raise UserError("a server cannot take Fisher scores, which need the clients' data")
        if self.scoring == "client" and self.downlink != "merged":
            raise UserError("the downlink is that of a scoring server; set scoring=server")


@register("fedobp")
class FedOBP(Method):
    """Element-wise personalization by importance."""

    title = "FedOBP"
    source = "the reproduced paper; arXiv 2604.16574"
    Settings = FedOBPSettings

    def __init__(self, federation: Federation, settings: FedOBPSettings | None = None) -> None:
        super().__init__(federation, settings)
        quantile, rule = self.settings.quantile, self.settings.quantile_rule
        self.quantile = federation.quantile if quantile is None else quantile
        self.rule = rule or federation.quantile_rule
        layout = federation.layout
        self.columns = slice(0, layout.size if self.settings.buffers else layout.parameters)
        classifier = layout.layers["classifier"]
        self.scored = classifier if self.settings.classifier_only else self.columns
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
        tau = threshold(scores[:, self.scored], self.quantile, self.rule)
        mask = torch.zeros_like(scores, dtype=torch.bool)
        mask[:, self.scored] = personal_mask(scores[:, self.scored], tau)
        rows = merge(mask, local, self.global_params)
        if self.settings.downlink == "sparse":
            sent = [differences(row, own) for row, own in zip(rows, mask, strict=True)]
            rows = torch.stack([merged(self.global_params, *parts) for parts in sent])
        return rows, mask[:, : layout.parameters]

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
        columns = self.columns
        if self.settings.score == "obp":
            return obp_score(local[:, columns], self.global_params[columns])
        if self.settings.score == "saliency":
            return saliency_score(local[:, columns], self.global_params[columns])
        if self.settings.score == "gradient":
            # Equal rows before a client's first round: no score, so nothing is personal.
            return gradient_score(self.state["start"][clients][:, columns], local[:, columns])
        return fisher_score(self.federation.trainer.gradient(local, clients.tolist()))
