"""What the server makes of the rows that clients have sent: their mean, or a robust stand-in.

- `mean`: weighted by training samples where a method says so, as ever.
- `median`: of each column (Yin et al. 2018, arXiv 1803.01498).
- `trimmed[:SHARE]`: the mean of each column without its SHARE of largest and of smallest values
  (likewise). Rounded up, so that some are cut from a small cohort, too; one at least is left.
- `clipping[:RADIUS]`: centered clipping (Karimireddy et al. 2021, arXiv 2012.10333). From the
  server's present model it takes a few steps, each by the mean of the ways to the rows, none of
  them longer than RADIUS; without RADIUS that is the median of their first lengths.

The robust ones count clients alike, as in their papers: a client says itself how many samples it
has, and a weight that a liar can choose protects nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError, unknown

KINDS = ("mean", "median", "trimmed", "clipping")
SHARE = 0.2
STEPS = 3  # of centered clipping


@dataclass(frozen=True)
class Aggregator:
    """A server's rule.

    Attributes:
        kind: one of `KINDS`.
        value: SHARE of `trimmed`; RADIUS of `clipping`, None: by the rows.
    """

    kind: str = "mean"
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> Aggregator:
        """Read `KIND` or `KIND:VALUE`; the text of the result reads the same.

        Raises:
            UserError: no such rule, or a value that it cannot have.
        """
        kind, colon, number = text.partition(":")
        if kind not in KINDS:
            raise unknown("aggregator", kind, KINDS)
        if not colon:
            return cls(kind, SHARE if kind == "trimmed" else None)
        if kind in ("mean", "median"):
            raise UserError(f"aggregator {kind!r} takes no value, got {text!r}")
        value = as_number(number, f"aggregator {text!r}")
        if kind == "trimmed" and not 0 <= value < 0.5:
            raise UserError(f"aggregator 'trimmed' cuts a share in [0, 0.5), got {number}")
        if kind == "clipping" and not 0 < value < math.inf:
            raise UserError(f"aggregator 'clipping' needs a radius above 0, got {number}")
        return cls(kind, value)

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}:{self.value}"

    def combine(self, rows: Tensor, center: Tensor, weights: Tensor | None) -> Tensor:
        """One row (D,) of rows (K, D).

        Args:
            rows: what clients have sent, one or more.
            center: (D,), the server's own, from which clipping starts.
            weights: (K,), of the mean; None: clients count alike.
        """
        if self.kind == "mean":
            return rows.mean(0) if weights is None else (weights / weights.sum()) @ rows
        if self.kind == "clipping":
            return clipped(rows, center, self.value)
        # The median is what is left when as much as possible is cut.
        most = (len(rows) - 1) // 2
        cut = most if self.value is None else min(math.ceil(self.value * len(rows) - 1e-9), most)
        return rows.sort(dim=0).values[cut : len(rows) - cut].mean(0)


def clipped(rows: Tensor, center: Tensor, radius: float | None) -> Tensor:
    """Centered clipping: (D,), at most `STEPS` times the radius from the center.

    Args:
        rows, center: see `Aggregator.combine`.
        radius: None: half of the rows are no further than that from the center.
    """
    ways = rows - center
    # With twice the precision, as the square of a long way may be too large else.
    reach = ways.double().norm(dim=1).quantile(0.5) if radius is None else radius
    place = center
    for _ in range(STEPS):
        ways = rows - place
        lengths = ways.double().norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
        place = place + ((reach / lengths).clamp(max=1).to(rows.dtype)[:, None] * ways).mean(0)
    return place


def as_number(text: str, where: str) -> float:
    """A number in a text such as `trimmed:0.2`.

    Raises:
        UserError: it is none.
    """
    try:
        value = float(text) + 0.0  # no -0.0
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UserError(f"{where}: {text!r} is no number")
    return value


MEAN = Aggregator()
