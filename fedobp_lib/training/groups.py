"""Clients in groups that the memory holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from .gpu import release

T = TypeVar("T")


class Groups:
    """Does work on clients group by group; a group that a GPU's memory does not hold is halved,
    and so are all that come later.

    Args:
        device: whose memory it is.
        what: of the work, for the line that says so.
    """

    def __init__(self, device: torch.device, what: str) -> None:
        self._device = device
        self._what = what
        self._most: int | None = None

    def each(self, count: int, size: int, work: Callable[[slice], T]) -> list[T]:
        """What `work` gives for each group.

        Args:
            count: clients there are.
            size: clients of a group, where the memory suffices.
            work: takes the places of a group among the clients.

        Raises:
            torch.OutOfMemoryError: the memory does not even hold one client.
        """
        done: list[T] = []
        begin = 0
        while begin < count:
            group = min(size, self._most or size, count - begin)
            try:
                done.append(work(slice(begin, begin + group)))
                begin += group
                continue
            except torch.OutOfMemoryError:
                if group == 1:
                    raise
            # Out of the clause above, as the error holds what the group had in memory.
            release(self._device)
            self._most = -(-group // 2)
            print(
                f"{self._what} {group} clients at once does not fit into memory; "
                f"now at most {self._most}",
                file=sys.stderr,
            )
        return done
