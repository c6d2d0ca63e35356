"""Asynchrony: what a client sends arrives some rounds later, and the server goes on meanwhile.

With `delays` D an upload is under way for d rounds, 0 to D, each as likely. In a round the server
takes in what arrives in it; where nothing does, its model stays. A late upload is moved by as far
as the server's model has moved since it was sent: so its own move is applied, stale as it is, to
the model of now (FedBuff: Nguyen et al. 2022, arXiv 2106.06639). A gradient is applied as it is.
Both are one rule, by a method's `reference`: what an upload is that moves nothing. What clients
keep of their own is theirs at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.clients import DELAYS, stream


class Post:
    """Uploads under way.

    They are tensors of a shape that stays, so that a checkpoint holds them like any other state: of
    each of the last D rounds what its clients have sent. What a round sent has arrived D rounds
    later, when its place is needed again.

    Args:
        state: of the method; gets `sent` (D, K, T), how far each upload moves what the server
            has, `senders` (D, K), and `due` (D, K), the round of its arrival (0: none).
        most: D, at least 1.
        cohort: K, clients in a round.
        reference: (T,), an upload that moves nothing.
        seed: of the run.
    """

    def __init__(
        self, state: dict[str, Any], most: int, cohort: int, reference: Tensor, seed: int
    ) -> None:
        self._state = state
        self._most = most
        self._seed = seed
        state["sent"] = reference.new_zeros(most, cohort, len(reference))
        for name in ("senders", "due"):
            state[name] = torch.zeros(most, cohort, dtype=torch.int64, device=reference.device)

    def exchange(
        self, clients: Tensor, rows: Tensor, reference: Tensor, round_: int
    ) -> tuple[Tensor, Tensor]:
        """Send rows, and take what arrives in this round.

        Args:
            clients: int64 (K,), who sends.
            rows: (K, T), what.
            reference: (T,), an upload that moves nothing now.
            round_: its number.

        Returns:
            Senders (A,), a client once for each of its uploads, and rows (A, T); A may be 0.
        """
        state, place = self._state, round_ % self._most
        came = state["due"] == round_
        late, senders = reference + state["sent"][came], state["senders"][came]
        ways = [
            int(stream(self._seed, DELAYS, round_, client).integers(self._most + 1))
            for client in clients.tolist()
        ]
        due = round_ + torch.tensor(ways, device=clients.device)
        now = due == round_
        state["sent"][place] = rows - reference
        state["senders"][place] = clients
        state["due"][place] = due.masked_fill(now, 0)
        return torch.cat([senders, clients[now]]), torch.cat([late, rows[now]])
