"""Who has done what in a round: FLOPs by side, client and part, and the memory of each client."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from .network import Flops
from .operations import SELECTION, flops

CLIENT, SERVER = "client", "server"
PARTS = ("forward", "backward", "update", "scoring", "threshold", "aggregation", "other")


@dataclass(frozen=True)
class _Place:
    """Whose work it is, what part of it, and how often it is done."""

    side: str
    clients: tuple[int, ...]
    part: str
    times: float = 1.0


class Ledger(TorchDispatchMode):
    """Counts all tensor operations while it is entered, and what it is told of.

    Attributes:
        flops: by (side, client, part); of the server the client is None.
        peaks: bytes that a client needs at once, by client.
        sparse_peaks: those that are left where zero weights and frozen columns take none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: dict[tuple[str, int | None, str], Flops] = defaultdict(Flops)
        self.peaks: dict[int, float] = defaultdict(float)
        self.sparse_peaks: dict[int, float] = defaultdict(float)
        self._place: _Place | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._place is not None and (count := flops(func, args, result)):
            scoring = self._place.part == "scoring"
            chooses = scoring and func.overloadpacket.__name__ in SELECTION
            self._book("threshold" if chooses else self._place.part, count)
        return result

    def _book(self, part: str, count: float) -> None:
        place = self._place
        assert place is not None
        numbers: Sequence[int | None] = place.clients if place.side == CLIENT else (None,)
        each = place.times * count / len(numbers)
        for client in numbers:
            self.flops[place.side, client, part] += Flops(each, each)

    def add(self, client: int, part: str, work: Flops) -> None:
        """Work of a client."""
        self.flops[CLIENT, client, part] += work

    def needs(self, client: int, memory: float, sparse: float) -> None:
        """A client needs so many bytes at once, and so many with sparse storage."""
        self.peaks[client] = max(self.peaks[client], memory)
        self.sparse_peaks[client] = max(self.sparse_peaks[client], sparse)

    @contextmanager
    def work(self, side: str, part: str, clients: Sequence[int] | None = None) -> Iterator[None]:
        """What follows is done by clients, each its share, or by the server.

        Args:
            side: `client` or `server`.
            part: one of `PARTS`; in `scoring`, comparing and choosing counts as `threshold`.
            clients: None: those of the work around it.
        """
        if clients is None:
            clients = self._place.clients if self._place else ()
        with self._at(_Place(side, tuple(clients), part)):
            yield

    @contextmanager
    def repeated(self, client: int, times: float) -> Iterator[None]:
        """What follows is part of a client's step, which it takes so many times."""
        with self._at(_Place(CLIENT, (client,), "update", times)):
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What follows is nobody's work."""
        with self._at(None):
            yield

    @contextmanager
    def _at(self, place: _Place | None) -> Iterator[None]:
        before, self._place = self._place, place
        try:
            yield
        finally:
            self._place = before
