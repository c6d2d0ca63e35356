"""FedSpa (Huang et al. 2022): every client trains a sparse model under a mask of its own.

The server holds a dense model, each client a mask with a fixed number of active parameters.
In a round, each client of the cohort
1. takes the server's parameters where its mask holds; all others are zero,
2. trains the active parameters and sends how far each has moved,
3. drops the active weights of smallest magnitude, a share that falls along a cosine to zero,
4. computes the gradient of all parameters and activates as many of the inactive ones, those
   of largest magnitude (what has just been dropped may come back); this mask serves next time.
The server moves each parameter by the cohort's mean move, in which a client whose mask lacks the
parameter counts as not having moved it. Clients count alike, whatever their numbers of samples.

That mean is the gradient of the paper's objective, the mean of the clients' losses at the masked
server model: a client without a parameter contributes zero, and the divisor stays the number of
clients. Two independent implementations divide so, too (in sunnyxuejj/FedLPS-main and in
suzuking1192/fl_reseach_work_in_progress). DisPFL divides by the clients that have the parameter,
`average=holders` here, which moves it further where masks overlap little.

Density counts all trainable parameters. Biases and batch-norm scales are always active and
count too; ERK (Evci et al. 2020) spreads what is left over the weight tensors, so that the
small ones stay dense. Steps 3 and 4 work within each tensor and keep its count.

FedSpa is not in the benchmark behind the FedOBP paper. The other defaults and details (one first
mask for all, rounding up in step 3) follow DisPFL, a later method of some of its authors with the
same masks (github.com/rong-dai/DisPFL). There, unlike here, step 4 uses one batch instead of all
samples, which are one more pass over the data; biases take part in ERK, and training has weight
decay, gradient clipping and a decaying learning rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.clients import INIT, stream
from ..errors import UserError, unknown
from ..models.parameters import ParameterLayout
from ..training.tasks import Task
from .base import Federation, Method, register
from .messages import Message, packed

AVERAGES = ("cohort", "holders")


@dataclass(frozen=True)
class FedSpaSettings:
    """Hyperparameters of FedSpa; the defaults are those of DisPFL's code, but for `average`.

    Attributes:
        density: active share of each client's trainable parameters, in (0, 1].
        prune_rate: share of a tensor's active weights exchanged after the first round, in
            [0, 1]; annealed to zero at the end of the run. 0 keeps the random first masks.
        same_masks: all clients begin with the same random mask, else each with its own.
        average: `cohort` divides a parameter's moves by the size of the cohort (the paper),
            `holders` by the number of clients that had it (DisPFL).
    """

    density: float = 0.5
    prune_rate: float = 0.5
    same_masks: bool = True
    average: str = "cohort"

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise UserError(f"the density must lie in (0, 1], got {self.density}")
        if not 0 <= self.prune_rate <= 1:
            raise UserError(f"the prune rate must lie in [0, 1], got {self.prune_rate}")
        if self.average not in AVERAGES:
            raise unknown("average", self.average, AVERAGES)


def erk_counts(layout: ParameterLayout, density: float) -> dict[str, int]:
    """Active parameters of every trainable tensor, together at most `density * P`.

    ERK gives a weight tensor a density in proportion to the sum of its axes over their product.
    What would be more than full is full, and the others share the rest.

    Raises:
        UserError: the tensors that are always dense are more than the density allows.
    """
    shapes = {
        name: shape
        for name, shape in zip(layout.names, layout.shapes, strict=True)
        if layout.spans[name].start < layout.parameters
    }
    sparse = [name for name, shape in shapes.items() if len(shape) > 1]
    while sparse:
        full = sum(shapes[name].numel() for name in shapes.keys() - set(sparse))
        budget = density * layout.parameters - full
        if budget < 0:
            raise UserError(f"density {density} leaves no room for biases and batch norm")
        epsilon = budget / sum(sum(shapes[name]) for name in sparse)
        fits = [name for name in sparse if epsilon * sum(shapes[name]) < shapes[name].numel()]
        if fits == sparse:
            break
        sparse = fits
    counts = {name: shape.numel() for name, shape in shapes.items()}
    return counts | {name: int(epsilon * sum(shapes[name])) for name in sparse}


class Masked(Task):
    """SGD on the parameters that each client's mask holds."""

    def mask(self, given: dict[str, Tensor], phase: object) -> Tensor:
        return given["mask"]


@register("fedspa")
class FedSpa(Method):
    """Personal sparse masks; the personal mask of `start` is the client's sparse mask."""

    title = "FedSpa"
    source = "Huang et al. 2022, arXiv 2201.11380"
    Settings = FedSpaSettings

    def __init__(self, federation: Federation, settings: FedSpaSettings | None = None) -> None:
        super().__init__(federation, settings)
        self.counts = erk_counts(federation.layout, self.settings.density)
        same = self.settings.same_masks
        self.state["masks"] = self.bank(self.random_mask(0) if same else self.random_mask)

    def random_mask(self, number: int) -> Tensor:
        """Bool (P,), on the CPU: every tensor's count of parameters, drawn at random."""
        layout = self.federation.layout
        rng = stream(self.federation.data.seed, INIT, 1, number)
        mask = torch.zeros(layout.parameters, dtype=torch.bool)
        for name, count in self.counts.items():
            drawn = rng.permutation(layout.shapes[layout.names.index(name)].numel())[:count]
            mask[layout.spans[name]][torch.from_numpy(drawn)] = True
        return mask

    def with_buffers(self, masks: Tensor) -> Tensor:
        """Masks (K, P) as (K, size): the running statistics are nobody's and never masked."""
        layout = self.federation.layout
        return F.pad(masks, (0, layout.size - layout.parameters), value=True)

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        masks = self.state["masks"][clients]
        return torch.where(self.with_buffers(masks), self.global_params, 0), masks

    def task(self, start: Tensor, clients: Tensor) -> Task:
        return Masked(start, mask=self.with_buffers(self.state["masks"][clients]))

    def messages_down(self, clients: Tensor, start: Tensor) -> list[Message]:
        """The active parameters; the client knows which they are, as it has chosen them."""
        masks = self.with_buffers(self.state["masks"][clients])
        return [{"model": row[mask]} for row, mask in zip(start, masks, strict=True)]

    def upload(self, clients: Tensor, start: Tensor, trained: Tensor) -> Tensor:
        """How far parameters (K, size) have moved: inactive ones, which stay zero, not at all."""
        return trained - start

    def messages_up(self, clients: Tensor, start: Tensor, trained: Tensor) -> list[Message]:
        """How far the active parameters have moved, and where the next mask is another."""
        masks = self.state["masks"][clients]
        moves = zip(self.upload(clients, start, trained), self.with_buffers(masks), strict=True)
        sent = [{"model": row[mask]} for row, mask in moves]
        if self.prune_rate > 0:
            gradients = self.federation.trainer.gradient(trained, clients.tolist())
            changes = masks ^ self.exchange(masks, trained, gradients)
            sent = [m | {"mask": packed(c)} for m, c in zip(sent, changes, strict=True)]
        return sent

    @property
    def compares(self) -> bool:
        """To send how far the parameters have moved."""
        return True

    def kept_for_client(self, client: int) -> Message:
        """The server keeps every client's mask, to send it nothing else."""
        return self.kept_by_client(client)

    def finish(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        masks = self.state["masks"][clients]
        moves = self.upload(clients, start, trained).sum(0)
        count: Tensor | int = len(clients)
        if self.settings.average == "holders":
            count = self.with_buffers(masks).sum(0).clamp_(min=1)
        self.state["global"] = self.global_params + moves / count
        if self.prune_rate > 0:
            gradients = self.federation.trainer.gradient(trained, clients.tolist())
            self.state["masks"][clients] = self.exchange(masks, trained, gradients)

    @property
    def prune_rate(self) -> float:
        """The share of active weights to exchange after this round."""
        progress = min(1.0, (self.round - 1) / self.federation.rounds)
        return self.settings.prune_rate / 2 * (1 + math.cos(math.pi * progress))

    def exchange(self, masks: Tensor, trained: Tensor, gradients: Tensor) -> Tensor:
        """Drop the smallest active weights and activate as many by gradient: masks (K, P)."""
        masks = masks.clone()
        for name, count in self.counts.items():
            columns = self.federation.layout.spans[name]
            mask, weights = masks[:, columns], trained[:, columns].abs()
            if count == mask.shape[1]:
                continue
            dropped = math.ceil(self.prune_rate * count)
            small = weights.masked_fill_(~mask, math.inf).topk(dropped, largest=False).indices
            mask.scatter_(1, small, False)
            large = gradients[:, columns].abs().masked_fill_(mask, -1).topk(dropped).indices
            mask.scatter_(1, large, True)
        return masks
