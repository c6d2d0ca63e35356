"""How important is a parameter for personalization? The scores, their scaling and their average.

All functions take rows (clients, P) or single vectors (P,) and work along the last axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .data.clients import SCORE, stream
from .errors import unknown
from .models.parameters import ParameterLayout

SCORES = ("obp", "gradient", "fisher", "saliency", "distance", "taylor", "random")
NEED_DATA = ("fisher", "taylor")  # scores of the client's loss
NORMALIZATIONS = ("none", "layer", "tensor", "global")


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


def saliency_score(local: Tensor, global_: Tensor) -> Tensor:
    """`|(local - global) * local|`: how much the difference weighs at the size of the parameter.

    The score of the authors' public code of January 2025; their code of May 2025 has Eq. 19.
    """
    return ((local - global_) * local).abs_()


def distance_score(local: Tensor, global_: Tensor) -> Tensor:
    """`|local - global|`: the order of Eq. 19, so the same parameters at any quantile or count."""
    return (local - global_).abs_()


def taylor_score(gradient: Tensor, local: Tensor, global_: Tensor) -> Tensor:
    """`|gradient * (local - global)|`: how the loss changes to first order if the parameter is
    taken from the server.

    `gradient` is that of the client's mean loss at its local model.
    """
    return (gradient * (local - global_)).abs_()


def random_score(seed: int, clients: Tensor, width: int) -> Tensor:
    """A random order of the parameters, the same for a client in all rounds: the control.

    Args:
        seed: of the run.
        clients: int64 (K,).
        width: parameters.

    Returns:
        (K, width) on the CPU, the whole numbers below `width`; float32 tells 2**24 of them apart.
    """
    orders = [stream(seed, SCORE, client).permutation(width) for client in clients.tolist()]
    return torch.stack([torch.from_numpy(order).float() for order in orders])


def moving_average(latest: Tensor, before: Tensor, known: Tensor, keep: float) -> Tensor:
    """A client's score averaged over the rounds it took part in: `(1 - keep) new + keep old`.

    As in the authors' code. Their main runs keep 0.1 to 0.5; the paper does not mention it.

    Args:
        latest: (K, P), this round's scores.
        before: (K, P), the averages so far.
        known: bool (K,), whether there is one; a client's first score is its first average.
        keep: weight of the average so far, in [0, 1).
    """
    return torch.where(known[:, None], torch.lerp(latest, before, keep), latest)


def normalize(scores: Tensor, layout: ParameterLayout, kind: str = "none") -> Tensor:
    """Min-max scaling of scores (paper, Section 4.1 and Appendix C.5).

    Args:
        scores: (..., P), or (..., size) if buffers are scored too; not negative.
        layout: tells which columns form a layer.
        kind: `none`, `layer` (each layer by its own minimum and maximum, as the text reads),
            `tensor` (each weight and bias by itself, as the authors ran "LayerNorm") or `global`
            (all parameters together). Where all scores are equal the result is zero.

    Raises:
        UserError: unknown kind.
    """
    if kind == "none":
        return scores
    if kind == "global":
        return _min_max(scores)
    if kind in ("layer", "tensor"):
        tensors = [s for s in layout.spans.values() if s.stop <= scores.shape[-1]]
        buffers = [s for s in tensors if s.start >= layout.parameters]
        groups = tensors if kind == "tensor" else [*layout.layers.values(), *buffers]
        return torch.cat([_min_max(scores[..., s]) for s in groups], dim=-1)
    raise unknown("normalization", kind, NORMALIZATIONS)


def _min_max(x: Tensor) -> Tensor:
    low, high = x.aminmax(dim=-1, keepdim=True)
    return (x - low) / torch.where(high > low, high - low, 1)
