"""Byzantine clients: a fixed share of the clients does harm in every round.

- `sign_flip`: sends the server's model moved the wrong way, STRENGTH times as far as it has moved
  it (Allen-Zhu et al. 2021, arXiv 2012.14368, among others).
- `noise`: sends the server's model with normal noise of deviation STRENGTH on every parameter.
- `label_flip`: trains on the label C - 1 - y in place of y, of C classes, and sends what comes of
  it (Karimireddy et al. 2021, arXiv 2012.10333).

The server's model is a method's `reference`: what an upload is that moves nothing. So a gradient or
a difference is turned round as it should be. Only what is sent is forged: what an attacker keeps of
its own it has trained like any other client. How an attacker does is nobody's concern, so what is
measured is of honest clients alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.clients import ATTACKERS, ATTACKS, stream
from ..data.partition import Partition
from ..errors import UserError, unknown
from .aggregators import as_number

KINDS = ("sign_flip", "noise", "label_flip")


@dataclass(frozen=True)
class Attack:
    """What Byzantine clients do.

    Attributes:
        kind: one of `KINDS`.
        share: of all clients, those that are Byzantine: at least one, never all.
        strength: see above; None for `label_flip`.
    """

    kind: str
    share: float
    strength: float | None = None

    @classmethod
    def parse(cls, text: str) -> Attack | None:
        """Read `none` or `KIND:SHARE[:STRENGTH]`; nobody's attack is None.

        Raises:
            UserError: no such attack, or a share or strength that it cannot have.
        """
        kind, *numbers = text.split(":")
        if kind not in ("none", *KINDS):
            raise unknown("attack", kind, ("none", *KINDS))
        takes = {"none": 0, "label_flip": 1}.get(kind, 2)
        if len(numbers) > takes or (takes and not numbers):
            form = kind + ["", ":SHARE", ":SHARE[:STRENGTH]"][takes]
            raise UserError(f"the attack {kind!r} is written {form}, got {text!r}")
        if kind == "none":
            return None
        share, *more = (as_number(number, f"attack {text!r}") for number in numbers)
        if not 0 <= share < 1:
            raise UserError(f"the share of byzantine clients must lie in [0, 1), got {share}")
        strength = more[0] if more else 1.0
        if not 0 <= strength < math.inf:
            raise UserError(f"the strength of an attack must not be negative, got {strength}")
        return cls(kind, share, strength if takes == 2 else None) if share else None

    def __str__(self) -> str:
        numbers = [self.share] if self.strength is None else [self.share, self.strength]
        return ":".join([self.kind, *map(str, numbers)])

    @property
    def on_the_way(self) -> bool:
        """Whether it forges what is sent, not what is trained on."""
        return self.strength is not None


class Adversaries:
    """The Byzantine clients of one run, drawn from its seed.

    Args:
        attack: what they do.
        clients: how many there are in all.
        seed: of the run.

    Attributes:
        members: bool (clients,), who they are.

    Raises:
        UserError: there is no second client, so none would be honest.
    """

    def __init__(self, attack: Attack, clients: int, seed: int) -> None:
        if clients < 2:
            raise UserError("byzantine clients need an honest one beside them; take more clients")
        count = min(max(1, round(attack.share * clients)), clients - 1)
        self.attack = attack
        self.seed = seed
        self.members = np.zeros(clients, bool)
        self.members[stream(seed, ATTACKERS).choice(clients, count, replace=False)] = True

    def sent(self, clients: Tensor, rows: Tensor, reference: Tensor, round_: int) -> Tensor:
        """What arrives of the rows (K, D) that clients would send.

        Args:
            clients: int64 (K,).
            rows: theirs.
            reference: (D,), a row that moves nothing.
            round_: its number.
        """
        strength = self.attack.strength
        if strength is None:
            return rows
        rows = rows.clone()
        for row, client in zip(rows, clients.tolist(), strict=True):
            if not self.members[client]:
                continue
            if self.attack.kind == "sign_flip":
                row.copy_(reference - strength * (row - reference))
            else:
                rng = stream(self.seed, ATTACKS, round_, client)
                noise = torch.from_numpy(rng.standard_normal(len(row), dtype=np.float32))
                row.copy_(reference + strength * noise.to(row.device))
        return rows

    def labels(self, labels: Tensor, partition: Partition, classes: int) -> Tensor:
        """The labels (N,) of all samples, as clients train on them; `label_flip` changes some."""
        if self.attack.on_the_way:
            return labels
        labels = labels.clone()
        for client in np.flatnonzero(self.members).tolist():
            own = torch.from_numpy(partition.train(client)).to(labels.device)
            labels[own] = classes - 1 - labels[own]
        return labels
