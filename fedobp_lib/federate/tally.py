"""How many bytes went between the server and its clients: a run's `traffic.csv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ..methods import Message
from ..methods.messages import nbytes
from .answers import own_part
from .link import Fault, Request

COLUMNS = ["round", "purpose", "client", "method_down", "method_up",
           "tensors_down", "tensors_up", "wire_down", "wire_up"]  # fmt: skip


class Tally:
    """Counts, a row of `COLUMNS` for each request and its answer.

    `method` are the bytes of the method's own messages, as `fedobp costs` counts them; `tensors`
    those of all that is sent, also for the history; `wire` has what goes around them as well.

    Attributes:
        rows: counted so far.
    """

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self._wire: dict[int, tuple[int, int]] = {}

    def count(
        self,
        requests: Mapping[int, Request],
        answers: Mapping[int, Message | Fault],
        wire: Mapping[int, tuple[int, int]],
    ) -> None:
        """Add what a `Link` has carried.

        Args:
            requests, answers: by client; a `Fault` has no tensors.
            wire: what the link has counted in all.
        """
        for client, request in requests.items():
            answer = answers[client]
            got = {} if isinstance(answer, Fault) else answer
            down, up = nbytes(request.message), nbytes(got)
            own = (down, nbytes(own_part(got))) if request.ask == "train" else (0, 0)
            before, now = self._wire.get(client, (0, 0)), wire.get(client, (0, 0))
            self._wire[client] = now
            moved = now[0] - before[0], now[1] - before[1]
            self.rows.append([request.round, request.ask, client, *own, down, up, *moved])

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=COLUMNS)
