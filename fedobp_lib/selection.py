"""Which parameters stay personal: rules that choose by a client's scores.

A rule takes scores (K, n), a row a client, and whatever else there is to choose by (`Given`), and
gives a `Selection`. A new one is a function here and its name in `RULES`. `quantile`, the paper's,
and `layers` need a quantile, `count` a number; `knee` and `held_out` need nothing that is tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .decoupling import personal_mask, threshold

# What `held_out` tries: the shares that stay personal, one a decade, nothing and everything.
# Table 5's are between 2e-5 and 5e-3.
SHARES = (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Selection:
    """What a rule has chosen.

    Attributes:
        tau: (K, 1), or (K, n) where columns differ: personal are scores above it.
        mask: bool (K, n), what is personal. It is `scores > tau` but where `count` splits ties.
    """

    tau: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Given:
    """What a rule may choose by, beside the scores.

    Attributes:
        q: the quantile.
        quantile_rule: a name of `decoupling.QUANTILE_RULES`.
        count: how many are to be personal.
        groups: the columns of each layer among the scored ones; together, all in their order.
        losses: takes a selection, gives each client's loss on its held-out samples with the model
            that is merged by it, (K,).
    """

    q: float
    quantile_rule: str
    count: int
    groups: Sequence[slice]
    losses: Callable[[Selection], Tensor]


def by_quantile(scores: Tensor, given: Given) -> Selection:
    """What is above the q-quantile of the client's scores (paper, Sec. 3.2)."""
    tau = threshold(scores, given.q, given.quantile_rule)
    return Selection(tau[:, None], personal_mask(scores, tau))


def by_layer(scores: Tensor, given: Given) -> Selection:
    """What is above the q-quantile of its own layer: each layer has a budget."""
    taus = []
    for group in given.groups:
        part = scores[:, group]
        taus.append(threshold(part, given.q, given.quantile_rule)[:, None].expand_as(part))
    tau = torch.cat(taus, dim=1)
    return Selection(tau, scores > tau)


def by_count(scores: Tensor, given: Given) -> Selection:
    """The `count` largest; of equal scores those of the first columns."""
    count, (rows, width) = given.count, scores.shape
    tau = scores.new_full((rows, 1), -torch.inf)
    if count >= width:
        return Selection(tau, torch.ones_like(scores, dtype=torch.bool))
    largest = scores.topk(count + 1, dim=1).values
    tau = largest[:, count:]
    if not count:
        return Selection(tau, torch.zeros_like(scores, dtype=torch.bool))
    least = largest[:, count - 1 : count]
    above, level = scores > least, scores == least
    room = count - above.sum(1, keepdim=True)
    return Selection(tau, above | (level & (level.cumsum(1) <= room)))


def by_knee(scores: Tensor, given: Given) -> Selection:
    """What is above the knee of the sorted scores (Kneedle, Satopaa et al. 2011).

    Sorted and scaled to [0, 1] against their rank, also in [0, 1], scores are a curve between two
    corners; its knee is where it is farthest from the straight line between them. Of several such
    places it is the first. Equal scores have no knee, so that nothing is personal.
    """
    curve = scores.sort(dim=1).values
    low, high = curve[:, :1].double(), curve[:, -1:].double()
    scaled = (curve - low) / torch.where(high > low, high - low, 1)  # in float64, as low is
    rank = torch.arange(curve.shape[1], dtype=torch.float64, device=curve.device)
    distance = (rank / max(curve.shape[1] - 1, 1) - scaled).abs()
    tau = curve.gather(1, distance.argmax(1, keepdim=True))
    return Selection(tau, scores > tau)


def by_held_out(scores: Tensor, given: Given) -> Selection:
    """The one of `SHARES` whose merged model has the smallest loss on held-out samples.

    Each client chooses for itself; of equal losses the smaller share.
    """
    chosen = _share(scores, 0.0, given.quantile_rule)
    least = given.losses(chosen).nan_to_num(torch.inf)
    for share in SHARES[1:]:
        tried = _share(scores, share, given.quantile_rule)
        loss = given.losses(tried)
        better = (loss < least)[:, None]
        least = torch.where(better[:, 0], loss, least)
        chosen = Selection(
            torch.where(better, tried.tau, chosen.tau), torch.where(better, tried.mask, chosen.mask)
        )
    return chosen


def _share(scores: Tensor, share: float, quantile_rule: str) -> Selection:
    """The share with the largest scores; of 0 nothing and of 1 everything, also where all tie."""
    if share in (0.0, 1.0):
        tau = scores.new_full((len(scores), 1), -torch.inf if share else torch.inf)
    else:
        tau = threshold(scores, 1 - share, quantile_rule)[:, None]
    return Selection(tau, scores > tau)


RULES: dict[str, Callable[[Tensor, Given], Selection]] = {
    "quantile": by_quantile,
    "knee": by_knee,
    "count": by_count,
    "layers": by_layer,
    "held_out": by_held_out,
}
