"""Where the rows of clients live: on the device, in host memory or on disk.

On the device a bank is an ordinary tensor (clients, D). Elsewhere it is a `Bank`, which is read
and written like one, `bank[clients]`, and moves the rows of these clients alone. A row that was
never written is the one its client began with, and takes no memory; so a bank grows with the
clients that took part, and what is on the device with the cohort.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PLACES = ("device", "host", "disk")

_WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# A row (D,), or a function that gives the row of a client by its number.
Initial = Tensor | Callable[[int], Tensor]


@dataclass(frozen=True)
class BankPlace:
    """Where a run keeps the rows of its clients.

    Attributes:
        kind: one of `PLACES`.
        folder: of the run, where files of banks are; on disk it must be there.
    """

    kind: str = "device"
    folder: Path | None = None


ON_DEVICE = BankPlace()


class Bank(ABC):
    """Rows of clients that are not on the device.

    Args:
        clients: how many.
        initial: what every client begins with.
        device: where rows are computed with.

    Attributes:
        shape: (clients, D), as of a tensor; `dtype` likewise.
        nbytes: what it takes of the device's memory: nothing.
        full_bytes: what all its rows take.
    """

    nbytes = 0

    def __init__(self, clients: int, initial: Initial, device: torch.device) -> None:
        # A round asks several times for the first rows of its cohort.
        self._initial: Initial = (
            initial.cpu() if isinstance(initial, Tensor) else lru_cache(maxsize=16)(initial)
        )
        row = self._first(0)
        self.shape = torch.Size((clients, len(row)))
        self.dtype = row.dtype
        self.device = device
        self.full_bytes = clients * row.nbytes

    def __getitem__(self, clients: Tensor | int) -> Tensor:
        """Rows (K, D) of clients, int64 (K,), or the row (D,) of one; always a copy."""
        if isinstance(clients, int):
            return self[torch.tensor([clients])][0]
        pinned = self.device.type == "cuda"  # so that the copy to the GPU waits for nothing
        rows = torch.empty(len(clients), self.shape[1], dtype=self.dtype, pin_memory=pinned)
        for client, row in zip(clients.tolist(), rows, strict=True):
            self._read(client, row)
        return rows.to(self.device, non_blocking=True)

    def __setitem__(self, clients: Tensor, rows: Tensor) -> None:
        """Keep rows (K, D) of clients, int64 (K,)."""
        if rows.shape != (len(clients), self.shape[1]):
            raise ValueError(f"rows of shape {tuple(rows.shape)} in a bank {tuple(self.shape)}")
        for client, row in zip(clients.tolist(), _on_host(rows, self.dtype), strict=True):
            self._write(client, row)

    def _first(self, client: int) -> Tensor:
        """The row a client begins with, on the CPU."""
        return self._initial if isinstance(self._initial, Tensor) else self._initial(client)

    @property
    @abstractmethod
    def written(self) -> list[int]:
        """The clients whose rows are kept here, in order."""

    @abstractmethod
    def _read(self, client: int, out: Tensor) -> None: ...

    @abstractmethod
    def _write(self, client: int, row: Tensor) -> None: ...

    @abstractmethod
    def kept(self) -> dict[str, Any]:
        """What a checkpoint has to hold so that the rows are found again; see `kept_rows`."""

    @abstractmethod
    def commit(self) -> None:
        """What only an older `kept` refers to may go: the checkpoint with the last is written."""

    @abstractmethod
    def forget(self) -> None:
        """As if no row had been written."""

    def fill(self, rows: Iterator[tuple[int, Tensor]]) -> None:
        """Hold these rows of clients and no others."""
        self.forget()
        for client, row in rows:
            if not same_bits(row, self._first(client)):
                self._write(client, row)


class HostBank(Bank):
    """Rows in the main memory, each from when it is first written."""

    def __init__(self, clients: int, initial: Initial, device: torch.device) -> None:
        super().__init__(clients, initial, device)
        self._rows: dict[int, Tensor] = {}

    @property
    def written(self) -> list[int]:
        return sorted(self._rows)

    def _read(self, client: int, out: Tensor) -> None:
        row = self._rows.get(client)
        out.copy_(self._first(client) if row is None else row)

    def _write(self, client: int, row: Tensor) -> None:
        if client in self._rows:
            self._rows[client].copy_(row)
        else:
            self._rows[client] = row.clone()

    def kept(self) -> dict[str, Any]:
        clients = self.written
        numbers = torch.tensor(clients, dtype=torch.int64)  # also where there is none
        return {"clients": numbers, "rows": [self._rows[c] for c in clients]}

    def commit(self) -> None:
        """Nothing follows."""

    def forget(self) -> None:
        self._rows = {}


def same_bits(one: Tensor, other: Tensor) -> Tensor:
    """Whether rows (..., D) agree bit by bit, (...); 0 and -0 do not, a NaN agrees with itself."""
    kind = _WHOLE_NUMBERS[one.element_size()]
    return (one.view(kind) == other.view(kind)).all(-1)


def _on_host(rows: Tensor, dtype: torch.dtype) -> Tensor:
    if rows.device.type != "cuda":
        return rows.detach().to("cpu", dtype).contiguous()
    here = torch.empty(rows.shape, dtype=dtype, pin_memory=True)
    here.copy_(rows, non_blocking=True)
    torch.cuda.current_stream(rows.device).synchronize()
    return here
