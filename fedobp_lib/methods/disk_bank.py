"""Rows of clients in a file: memory holds a cohort's rows, the disk everybody's.

The file is a sequence of slots of one row each. A row is never written to a slot that the last
checkpoint refers to, and the checkpoint has the table of slots and of checksums. So a kill at any
moment leaves all that the last checkpoint refers to, and a checkpoint costs no copy of the rows.
Slots come back into use when a later checkpoint is written that no longer refers to them.

Rows are read and written, not mapped: pages of a mapped file would count as this process's memory.
Each row is compared with its checksum whenever it is read, so a damaged one stops the run instead
of changing its numbers; that also holds if a process that lost the run's lease still writes here.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import paths
from ..errors import UserError
from .banks import Bank, Initial

PATTERN = "bank-*.rows"  # names of the files


class DiskBank(Bank):
    """Rows in a file, which is opened, and emptied, when the first one is written.

    Args:
        clients, initial, device: see `Bank`.
        path: of the file, in a folder that is there when a row is written.

    Raises:
        UserError: later, when the file cannot be read or written, or a row is damaged.
    """

    _file: FileIO | None = None

    def __init__(self, clients: int, initial: Initial, device: torch.device, path: Path) -> None:
        super().__init__(clients, initial, device)
        self.path = path
        self._width = self._first(0).nbytes
        self.forget()

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def forget(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
        clients = self.shape[0]
        self._slots = np.full(clients, -1)  # of each client; -1: no row was written
        self._sums = np.zeros(clients, np.int64)
        self._end = 0  # slots in the file
        self._free: list[int] = []
        # What the last checkpoint refers to, and what one refers to that is being written.
        self._kept = self._asked = np.zeros(0, np.int64)
        self._protected: set[int] = set()

    @property
    def written(self) -> list[int]:
        return np.flatnonzero(self._slots >= 0).tolist()

    def _read(self, client: int, out: Tensor) -> None:
        slot = int(self._slots[client])
        if slot < 0:
            out.copy_(self._first(client))
            return
        try:
            whole = self._read_slot(slot, out)
        except OSError as error:
            raise UserError(f"cannot read {paths.shown(self.path)}: {error.strerror}") from error
        if not whole or zlib.crc32(_bytes(out)) != self._sums[client]:
            raise UserError(f"{paths.shown(self.path)}: row {client} is damaged")

    def _read_slot(self, slot: int, out: Tensor) -> bool:
        assert self._file is not None
        self._file.seek(slot * self._width)
        view = memoryview(_bytes(out))
        while view:
            count = self._file.readinto(view)
            if not count:
                return False
            view = view[count:]
        return True

    def _write(self, client: int, row: Tensor) -> None:
        slot = int(self._slots[client])
        if slot < 0 or slot in self._protected:
            slot = self._free.pop() if self._free else self._end
        content = _bytes(row)
        try:
            if self._file is None:
                self._file = FileIO(self.path, "w+")
            self._file.seek(slot * self._width)
            view = memoryview(content)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise UserError(f"cannot write {paths.shown(self.path)}: {error.strerror}") from error
        self._end = max(self._end, slot + 1)
        self._slots[client] = slot
        self._sums[client] = zlib.crc32(content)

    def kept(self) -> dict[str, Any]:
        """The table of slots; the rows that it refers to are on the disk, and stay.

        Raises:
            OSError: they cannot be brought there.
        """
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._asked = self._slots[self._slots >= 0]
        self._sort_slots()
        return {
            "file": self.path.name,
            "slots": torch.from_numpy(self._slots.copy()),
            "checksums": torch.from_numpy(self._sums.copy()),
        }

    def commit(self) -> None:
        self._kept = self._asked
        self._sort_slots()

    def _sort_slots(self) -> None:
        """Which slots must stay as they are, and which are free."""
        self._protected = {*self._kept.tolist(), *self._asked.tolist()}
        used = self._protected | set(self._slots.tolist())
        self._free = [slot for slot in range(self._end - 1, -1, -1) if slot not in used]

    def adopt(self, kept: dict[str, Any]) -> None:
        """Go on with the file and the table that a checkpoint refers to.

        Args:
            kept: as `kept` gave it.

        Raises:
            ValueError: the table is not of such a bank.
            OSError: the file cannot be opened.
        """
        slots, sums = (kept[name].numpy().astype(np.int64) for name in ("slots", "checksums"))
        used = slots[slots >= 0]
        if len(slots) != self.shape[0] or len(sums) != len(slots) or slots.min() < -1:
            raise ValueError("the table of slots is of a bank of another size")
        if len(np.unique(used)) != len(used):
            raise ValueError("two clients have one slot")
        self.forget()
        if len(used):
            self._file = FileIO(self.path, "r+")
        self._slots, self._sums, self._end = slots, sums, int(slots.max()) + 1
        self._kept = self._asked = used
        self._sort_slots()

    def rows(self) -> Iterator[tuple[int, Tensor]]:
        """Every client whose row was written, and the row, in memory that the next one takes."""
        row = torch.empty(self.shape[1], dtype=self.dtype)
        for client in self.written:
            self._read(client, row)
            yield client, row


def remove_files(folder: Path) -> None:
    """Remove the files of banks in a run's folder."""
    for path in folder.glob(PATTERN):
        path.unlink(missing_ok=True)


def _bytes(row: Tensor) -> Any:
    """The bytes of a contiguous row, not copied."""
    return row.view(torch.uint8).numpy()
