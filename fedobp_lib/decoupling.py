"""From scores to a personalized model: quantile threshold, mask, merge (paper, Sec. 3.2).

Other rules than the quantile are in `selection`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import UserError, unknown

QUANTILE_RULES = ("linear", "inverted_cdf")


def threshold(scores: Tensor, q: float, rule: str = "linear") -> Tensor:
    """The q-quantile of each row, exactly, without sorting the rows.

    Only the few largest (or smallest) values matter when q is near 1 (or 0), so `topk`
    finds them; its cost does not grow with P log P, and any P works on any device
    (`torch.quantile` stops at 16 million values).

    Args:
        scores: (..., P), no NaN.
        q: quantile level in [0, 1].
        rule: `linear` interpolates between order statistics (NumPy's and torch's default;
            what the authors ran); `inverted_cdf` is the text's `inf {x : F(x) >= q}`.

    Returns:
        (...,) thresholds; for q = 0 the minimum, for q = 1 the maximum.

    Raises:
        UserError: q outside [0, 1] or unknown rule.
    """
    if not 0 <= q <= 1:
        raise UserError(f"the quantile must lie in [0, 1], got {q}")
    last = scores.shape[-1] - 1
    if rule == "linear":
        position = q * last
        low = math.floor(position)
        weight = position - low
    elif rule == "inverted_cdf":
        low, weight = max(math.ceil(q * (last + 1)) - 1, 0), 0.0
    else:
        raise unknown("quantile rule", rule, QUANTILE_RULES)
    high = min(low + 1, last)
    if last - low < low:
        top = scores.topk(last - low + 1, dim=-1).values
        below, above = top[..., last - low], top[..., last - high]
    else:
        bottom = scores.topk(high + 1, dim=-1, largest=False).values
        below, above = bottom[..., low], bottom[..., high]
    return torch.lerp(below, above, weight) if weight else below


def personal_mask(scores: Tensor, tau: Tensor) -> Tensor:
    """Which parameters stay personal: `score > tau` (paper, Eq. 7). Ties are global (Eq. 8).

    Args:
        scores: (..., P).
        tau: (...,) thresholds.
    """
    return scores > tau.unsqueeze(-1)


def personal_count(parameters: int, q: float, rule: str = "linear") -> int:
    """How many of P parameters with distinct scores exceed the q-quantile (paper, Table 5)."""
    scores = torch.arange(parameters, dtype=torch.float64)
    return int(personal_mask(scores, threshold(scores, q, rule)).sum())


def merge(mask: Tensor, local: Tensor, global_: Tensor) -> Tensor:
    """The merged model (paper, Eq. 9): local where the mask holds, global elsewhere.

    Args:
        mask: bool (..., P); columns of a row beyond P (buffers) are global.
        local: (..., size) rows of the clients' models, size >= P.
        global_: (size,) the server's model.

    Returns:
        (..., size), a new tensor.
    """
    columns = mask.shape[-1]
    merged = global_.expand_as(local).clone()
    merged[..., :columns] = torch.where(mask, local[..., :columns], global_[:columns])
    return merged


def soft_weights(scores: Tensor, tau: Tensor) -> Tensor:
    """How much of its own value each parameter keeps: `score / (score + tau)`, in [0, 1].

    Half at the threshold, more above it. 0 where both are 0, and where tau is infinite; with a
    negative tau, which is that of everything personal, as with 0.

    Args:
        scores: (..., P), not negative.
        tau: thresholds, (..., 1) or (..., P).
    """
    total = scores + tau.clamp(min=0)
    return scores / torch.where(total > 0, total, 1)


def soft_merge(weights: Tensor, local: Tensor, global_: Tensor) -> Tensor:
    """The softly merged model: `weight * local + (1 - weight) * global`.

    Args:
        weights: (..., P); columns of a row beyond P (buffers) are global.
        local, global_: as of `merge`.

    Returns:
        (..., size), a new tensor.
    """
    columns = weights.shape[-1]
    merged = global_.expand_as(local).clone()
    merged[..., :columns] = torch.lerp(global_[:columns], local[..., :columns], weights)
    return merged
