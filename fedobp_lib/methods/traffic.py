"""What a method sends between server and clients, and who keeps what between rounds.

Of a round, per client of the cohort:

    down = method.messages_down(cohort, start)        # from the server, before it begins
    up = method.messages_up(cohort, start, trained)   # from the client, after its training
    back = method.replies(cohort, up)                 # from the server, once `finish` is done

All three are looked at, never needed, in a simulation; asking changes nothing. Every side knows the
configuration with its seed, so also the initial model and whatever is drawn from the seed: nothing
travels for these. A client says with each upload how many samples it has, in eight bytes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .messages import Message, bits


class Traffic:
    """FedAvg's traffic; a method overrides the hooks in which it differs."""

    federation: Any
    settings: Any
    state: dict[str, Any]

    @property
    def travels(self) -> slice | Tensor:
        """The columns of a model that server and clients send each other; all, or an index."""
        return slice(None)

    @property
    def reference(self) -> Tensor:
        """An upload (T,) that moves nothing: the server's model; of a gradient or a difference 0.

        It is what forged and late uploads are measured from, and where clipping starts.
        """
        return self.state["global"][self.travels]

    def upload(self, clients: Tensor, start: Tensor, trained: Tensor) -> Tensor:
        """What the clients send to the server: rows (K, T), of the columns that travel."""
        return trained[:, self.travels]

    def messages_down(self, clients: Tensor, start: Tensor) -> list[Message]:
        """What the server sends to each client, of which this begins its round.

        Args:
            clients: int64 (K,).
            start: as the hook `start` gave it.
        """
        if scores_on_server(self):
            return [{"model": row} for row in start]
        shared = self.state["global"][self.travels]
        return [{"model": shared} if len(shared) else {} for _ in clients]

    def messages_up(self, clients: Tensor, start: Tensor, trained: Tensor) -> list[Message]:
        """What each client sends to the server; before `finish`.

        Args:
            clients: int64 (K,).
            start, trained: rows before and after training.
        """
        rows = self.upload(clients, start, trained)
        samples = self.federation.data.train_counts[clients]
        return [
            {"model": row, "samples": count} if len(row) else {}
            for row, count in zip(rows, samples, strict=True)
        ]

    def replies(self, clients: Tensor, received: list[Message]) -> list[Message]:
        """What the server sends to each client at the end of a round; after `finish`.

        Args:
            clients: int64 (K,).
            received: their messages of this round.
        """
        return [{} for _ in clients]

    def messages_outside(self, clients: Tensor) -> tuple[list[Message], list[Message]]:
        """What clients outside the cohort receive and send in a round; before `finish`.

        Args:
            clients: int64 (K,), some of those outside.
        """
        return [{} for _ in clients], [{} for _ in clients]

    @property
    def compares(self) -> bool:
        """Whether a client, once it has trained, compares with a model of before."""
        return False

    def kept_by_client(self, client: int) -> Message:
        """What a client keeps between its rounds, masks as bits."""
        return {} if scores_on_server(self) else self._rows_of(client)

    def kept_for_client(self, client: int) -> Message:
        """What the server keeps of a client, masks as bits."""
        return self._rows_of(client) if scores_on_server(self) else {}

    def kept_by_server(self) -> Message:
        """What the server keeps beside what it keeps of single clients."""
        shared = self.state["global"][self.travels]
        return {"model": shared} if len(shared) else {}

    def _rows_of(self, client: int) -> Message:
        """A client's rows of all in `state` that has a row for each client."""
        clients = self.federation.data.clients
        rows = {
            name: value[client]
            for name, value in self.state.items()
            if name != "global" and value.shape[:1] == (clients,)
        }
        return {
            name: bits(row) if row.dtype == torch.bool and row.ndim else row
            for name, row in rows.items()
        }


def scores_on_server(method: Traffic) -> bool:
    """Whether the server makes each client's start, and keeps for it what others keep themselves.

    A client of such a method gets a row to begin with, trains it, and sends it back.
    """
    return getattr(method.settings, "scoring", "client") == "server"
