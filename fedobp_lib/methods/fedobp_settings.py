"""The hyperparameters of FedOBP (`fedobp.py`), and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass

from ..decoupling import QUANTILE_RULES
from ..errors import UserError, unknown
from ..scoring import NEED_DATA, NORMALIZATIONS, SCORES
from ..selection import RULES
from .base import added
from .downlink import DOWNLINKS

SIDES = ("client", "server")
MERGES = ("hard", "soft")
AMONG = ("all", "classifier", "biases")
OF_QUANTILE = ("quantile", "layers")  # rules that need one
HELD_OUT = 0.2


@dataclass(frozen=True)
class FedOBPSettings:
    """Hyperparameters of FedOBP.

    Attributes:
        quantile: q in [0, 1]; the share of parameters taken from the server. None: the value
            of the paper's Table 5 for the data set and alpha, else 0.9995.
        score: `obp` (Eq. 19), `gradient` (Eq. 5), `fisher` (Eq. 6), `saliency` (what the
            authors' code of January 2025 computes), `distance` (Eq. 19 without the square),
            `taylor` (how the loss changes to first order) or `random` (the control).
        normalization: `none`, `layer`, `tensor` or `global` (Appendix C.5).
        ema: weight of a client's average score so far, in [0, 1); 0: this round's score alone.
        classifier_only: score and personalize the classifier alone (Appendix C.5); the
            quantile is then one of the classifier's scores. The same as `among=classifier`.
        buffers: score and personalize the running statistics of batch normalization like
            parameters, as the benchmark behind the paper does on ResNet-18.
        quantile_rule: `linear` or `inverted_cdf`; None: the protocol's.
        scoring: who takes steps 1 to 3: `client`, or `server`, as in the cloud-edge version of
            the paper. The numbers are the same.
        downlink: what a scoring server sends: `merged`, each client's model, or `sparse`, its
            own model to all and to each client its personal parameters.
        select: the rule that chooses by the scores: `quantile`; `layers`, the same quantile in
            each layer; `count`, so many; `knee` of the sorted scores; or `held_out`, what does
            best on samples that the client holds out. The last two need no tuning.
        count: how many parameters stay personal with `select=count`.
        held_out: share of a client's training samples held out with `select=held_out`.
        merge: `hard` takes a personal parameter from the client and any other from the server;
            `soft` mixes them in the proportion of score and threshold, and calls personal what
            is above the threshold.
        among: where personal parameters may be: `all`, the `classifier`, or its `biases`.
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
    select: str = added("quantile")
    count: int | None = added(None)
    held_out: float = added(HELD_OUT)
    merge: str = added("hard")
    among: str = added("all")

    def __post_init__(self) -> None:
        if self.quantile is not None and not 0 <= self.quantile <= 1:
            raise UserError(f"the quantile must lie in [0, 1], got {self.quantile}")
        if self.score not in SCORES:
            raise unknown("score", self.score, SCORES)
        if self.normalization not in NORMALIZATIONS:
            raise unknown("normalization", self.normalization, NORMALIZATIONS)
        if not 0 <= self.ema < 1:
            raise UserError(f"ema must lie in [0, 1), got {self.ema}")
        if self.buffers and (self.scored_part != "all" or self.score in NEED_DATA):
            raise UserError(
                "buffers have no Fisher score and no gradient, and are no part of the classifier; "
                "use score=obp"
            )
        if self.quantile_rule not in (None, *QUANTILE_RULES):
            raise unknown("quantile rule", self.quantile_rule, QUANTILE_RULES)
        if self.scoring not in SIDES:
            raise unknown("side that scores", self.scoring, SIDES)
        if self.downlink not in DOWNLINKS:
            raise unknown("downlink", self.downlink, DOWNLINKS)
        if self.scoring == "server" and self.score in NEED_DATA:
            name = self.score.title()
            raise UserError(f"a server cannot take {name} scores, which need the clients' data")
        if self.scoring == "client" and self.downlink != "merged":
            raise UserError("the downlink is that of a scoring server; set scoring=server")
        self._check_selection()

    def _check_selection(self) -> None:
        if self.select not in RULES:
            raise unknown("rule of selection", self.select, RULES)
        if self.merge not in MERGES:
            raise unknown("merge", self.merge, MERGES)
        if self.among not in AMONG:
            raise unknown("part for personal parameters", self.among, AMONG)
        if self.quantile is not None and self.select not in OF_QUANTILE:
            raise UserError(f"select={self.select} needs no quantile")
        if (self.count is None) == (self.select == "count"):
            raise UserError("select=count and a count go together; set both or none")
        if self.count is not None and self.count < 0:
            raise UserError(f"the count must not be negative, got {self.count}")
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out must lie between 0 and 1, got {self.held_out}")
        if self.select != "held_out" and self.held_out != HELD_OUT:
            raise UserError("held_out is a share for select=held_out; set that too")
        if self.select == "held_out" and self.scoring == "server":
            raise UserError("a server cannot try models on samples that clients hold out")
        if self.merge == "soft" and self.downlink == "sparse":
            raise UserError("a soft merge leaves no parameter as the server's: no sparse downlink")
        if self.classifier_only and self.among == "biases":
            raise UserError("classifier_only is among=classifier; set one of them")

    @property
    def scored_part(self) -> str:
        """Where personal parameters may be, one of `AMONG`."""
        return "classifier" if self.classifier_only else self.among
