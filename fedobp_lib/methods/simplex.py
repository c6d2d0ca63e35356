"""Points on a simplex: where FLOCO (Grinwald, Wiesner, Nakajima 2024) places clients."""

from __future__ import annotations

from functools import reduce
from operator import add

import torch
import torch.nn.functional as F
from torch import Tensor

from .banks import Bank

# Numbers of signals that are in memory as doubles at once; the paper's sizes are below that.
AT_ONCE = 2**27


def project(signals: Tensor | Bank, endpoints: int) -> Tensor:
    """A point on the simplex for every client, from gradient signals (clients, D).

    Coordinates are the first principal components (zero where there are more end points than
    components), the sign of each such that its largest loading is positive. Of 1000 scales the
    one is taken at which the projected clients lie furthest apart (least Riesz energy).

    Returns:
        (clients, endpoints), rows of numbers >= 0 that sum to one.
    """
    clients, width = signals.shape
    groups = torch.arange(clients, device=signals.device).split(max(1, AT_ONCE // width))
    mean = reduce(add, (signals[g].double().mean(0) * (len(g) / clients) for g in groups))

    def centered(group: Tensor) -> Tensor:
        return signals[group].double() - mean

    products = mean.new_zeros(clients, clients)  # `eigh` reads what is not above the diagonal
    for number, one in enumerate(groups):
        of_one = centered(one)
        for other in groups[:number]:
            products[one[:, None], other] = of_one @ centered(other).T
        products[one[:, None], one] = of_one @ of_one.T
    values, vectors = torch.linalg.eigh(products)
    used = min(endpoints, clients - 1)
    components = vectors.flip(1)[:, :used] * values.flip(0)[:used].clamp_min(0).sqrt()
    loadings = reduce(add, (components[g].T @ centered(g) for g in groups))
    largest = loadings.gather(1, loadings.abs().argmax(1, keepdim=True))
    components = F.pad(components * largest.sign().T, (0, endpoints - used)).cpu()
    scales = torch.linspace(1e-4, 1, 1000, dtype=torch.float64)
    points = min((onto_simplex(components / scale) for scale in scales), key=riesz_energy)
    return points.to(signals.device, signals.dtype)


def onto_simplex(points: Tensor) -> Tensor:
    """The nearest point of the simplex to each row."""
    ordered = points.sort(dim=1, descending=True).values
    surplus = ordered.cumsum(1) - 1
    ranks = torch.arange(1, points.shape[1] + 1)
    kept = (ordered * ranks > surplus).sum(1, keepdim=True)
    return (points - surplus.gather(1, kept - 1) / kept).clamp_min(0)


def riesz_energy(points: Tensor) -> float:
    """Sum over pairs of points of their squared inverse distance, 1e-4 at the least."""
    return torch.pdist(points).clamp_min(1e-4).pow(-2).sum().item()
