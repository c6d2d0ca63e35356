"""What a checkpoint holds of a method's state, and how it goes back, also into another place.

A part of the state is held as one of
- a tensor, as it is;
- `clients` and `rows`: the rows that are no longer as they were at first, each a tensor;
- `file`, `slots` and `checksums`: a table of rows in a file (`disk_bank`).
The second comes from a bank in host memory, and from a tensor on the device as long as no more
than half of its rows have changed. Any of them goes into any place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import HalfRestored
from .banks import Bank, same_bits
from .disk_bank import DiskBank

WIDE = 4096  # bytes of a row from which it pays to leave rows out
AT_ONCE = 64  # rows that are compared together


def first_rows(state: dict[str, Any], clients: int) -> dict[str, Tensor | None]:
    """The `first_row` of each part of a method's state."""
    return {name: first_row(value, clients) for name, value in state.items()}


def keep_state(state: dict[str, Any], first: dict[str, Tensor | None]) -> dict[str, Any]:
    """What a checkpoint holds of a method's state.

    Args:
        state: of the method; a name may have come since the beginning.
        first: its `first_rows` at the beginning.
    """
    return {name: keep(value, first.get(name)) for name, value in state.items()}


def restore_state(
    kept: dict[str, Any],
    state: dict[str, Any],
    first: dict[str, Tensor | None],
    folder: Path | None,
) -> None:
    """Bring a method's state back from a checkpoint.

    Args:
        kept: as `keep_state` gave it.
        state: of the method at its beginning; it is written to.
        first: see `keep_state`.
        folder: where files of banks are.

    Raises:
        UserError, KeyError, ValueError, OSError: it is of another run or damaged; nothing is
            changed.
        HalfRestored: reading failed later; this state is of no use.
    """
    if kept.keys() != state.keys():
        raise KeyError("the state is of another method")
    for name, value in state.items():
        check(kept[name], value, folder)
    try:
        for name, value in state.items():
            put_back(kept[name], value, first.get(name), folder)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise HalfRestored(f"the checkpoint cannot be read to its end: {error}") from error


def first_row(value: Any, clients: int) -> Tensor | None:
    """The row that all clients begin with, of a wide tensor (clients, D) in which they are equal;
    else None."""
    if not isinstance(value, Tensor) or value.ndim != 2 or len(value) != clients:
        return None
    if value[0].nbytes < WIDE or len(_changed(value, value[0])):
        return None
    return value[0].clone()


def keep(value: Tensor | Bank, first: Tensor | None) -> Any:
    """What a checkpoint holds of a part of the state.

    Args:
        value: a tensor or a bank.
        first: its `first_row` at the beginning of the run.
    """
    if isinstance(value, Bank):
        return value.kept()
    if first is None:
        return value
    changed = _changed(value, first)
    if 2 * len(changed) > len(value):
        return value  # copying more rows than that would need too much memory
    return {"clients": changed.cpu(), "rows": [value[c].clone().cpu() for c in changed.tolist()]}


def check(kept: Any, value: Tensor | Bank, folder: Path | None) -> None:
    """Raise unless `put_back` would succeed.

    Args:
        kept: as `keep` gave it.
        value: what it is for, a tensor or bank that is there.
        folder: where files of banks are.

    Raises:
        UserError, ValueError, KeyError, OSError: it is of another run, or damaged.
    """
    if _is_table(kept):
        for _ in _stored(kept, value, folder).rows():  # each is compared with its checksum
            pass
        return
    parts, size = [kept], value.shape
    if not isinstance(kept, Tensor):
        parts, size = kept["rows"], value.shape[1:]
        numbers = kept["clients"]
        clients = set(numbers.tolist())
        of_these = numbers.dtype == torch.int64 and clients <= set(range(value.shape[0]))
        if not of_these or not len(parts) == len(numbers) == len(clients):
            raise ValueError("the rows are of other clients")
    if any(part.shape != size or part.dtype != value.dtype for part in parts):
        raise ValueError("the state is of a run of another size")


def put_back(kept: Any, value: Tensor | Bank, first: Tensor | None, folder: Path | None) -> None:
    """Bring what a checkpoint holds back into a part of the state of a run at its beginning.

    Args:
        kept, value, folder: see `check`.
        first: see `keep`.
    """
    if isinstance(value, DiskBank) and _is_table(kept) and kept["file"] == value.path.name:
        value.adopt(kept)
    elif isinstance(value, Bank):
        value.fill(_rows(kept, value, folder))
    elif isinstance(kept, Tensor):
        value.copy_(kept)
    else:
        if first is not None:
            value.copy_(first.expand_as(value))
        for client, row in _rows(kept, value, folder):
            value[client] = row


def _rows(kept: Any, value: Tensor | Bank, folder: Path | None) -> Iterator[tuple[int, Tensor]]:
    if isinstance(kept, Tensor):
        return enumerate(kept)
    if _is_table(kept):
        return _stored(kept, value, folder).rows()
    return zip(kept["clients"].tolist(), kept["rows"], strict=True)


def _stored(kept: dict[str, Any], value: Tensor | Bank, folder: Path | None) -> DiskBank:
    if folder is None:
        raise ValueError("the rows are in a file of a folder that is not known")
    row = torch.empty(value.shape[1], dtype=value.dtype)
    bank = DiskBank(value.shape[0], row, torch.device("cpu"), folder / Path(kept["file"]).name)
    bank.adopt(kept)
    return bank


def _is_table(kept: Any) -> bool:
    return isinstance(kept, dict) and "file" in kept


def _changed(value: Tensor, first: Tensor) -> Tensor:
    """The numbers of rows that differ from `first` in any bit."""
    same = [same_bits(part, first) for part in value.split(AT_ONCE)]
    return (~torch.cat(same)).nonzero()[:, 0]
