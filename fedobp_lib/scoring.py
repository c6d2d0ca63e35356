"""How important is a parameter for personalization? The three scores and their scaling.

All functions take rows (clients, P) or single vectors (P,) and work along the last axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import unknown
from .models.parameters import ParameterLayout

SCORES = ("obp", "gradient", "fisher")
NORMALIZATIONS = ("none", "layer", "global")


def obp_score(local: Tensor, global_: Tensor) -> Tensor:
    """FedOBP's importance (paper, Eq. 19): `(local - global)**2`, one number a parameter."""
    return (local - global_).square_()


def gradient_score(start: Tensor, trained: Tensor) -> Tensor:
    """Size of the last local update (paper, Eq. 5): `|start - trained|`.

    `start` is the merged model of the client's last round, `trained` what it trained it to;
    before a client's first round there is no such score.
    """
    return (start - trained).abs_()


def fisher_score(gradient: Tensor) -> Tensor:
    """Fisher information (paper, Eq. 6): the squared gradient of the client's mean loss."""
    return gradient.square()


def normalize(scores: Tensor, layout: ParameterLayout, kind: str = "none") -> Tensor:
    """Min-max scaling of scores (paper, Section 4.1 and Appendix C.5).

    Args:
        scores: (..., P), not negative.
        layout: tells which columns form a layer.
        kind: `none`, `layer` (each layer by its own minimum and maximum) or `global` (all
            parameters together). Where all scores are equal the result is zero.

    Raises:
        UserError: unknown kind.
    """
    if kind == "none":
        return scores
    if kind == "global":
        return _min_max(scores)
    if kind == "layer":
        return torch.cat([_min_max(scores[..., s]) for s in layout.layers.values()], dim=-1)
    raise unknown("normalization", kind, NORMALIZATIONS)


def _min_max(x: Tensor) -> Tensor:
    low, high = x.aminmax(dim=-1, keepdim=True)
    return (x - low) / torch.where(high > low, high - low, 1)
