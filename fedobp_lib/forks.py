"""Processes that are forked, as `multiprocessing.Pool` does on Linux, after the kit has computed.

A forked process has only the thread that forked. The threads that PyTorch kept to share its work
are not there any more, and PyTorch would wait for them for ever: so it computes on one thread. What
another thread was doing at that moment is never finished, and a lock that it held stays held:
where it was computing, the forked process says so instead of computing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import UserError

_computing: set[int] = set()  # threads
_cut_off = False


@contextmanager
def computing() -> Iterator[None]:
    """Within, this thread computes; also a decorator."""
    thread = threading.get_ident()
    if thread in _computing:
        yield
        return
    _computing.add(thread)
    try:
        yield
    finally:
        _computing.discard(thread)


def check(device: torch.device) -> None:
    """Whether this process can compute.

    Args:
        device: where.

    Raises:
        UserError: it was forked while another thread was computing, or after a GPU was asked for.
    """
    remedy = "start processes before, or with multiprocessing.get_context('spawn')"
    if _cut_off:
        raise UserError(f"this process was forked while another thread was computing; {remedy}")
    if device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise UserError(f"this process was forked after PyTorch looked for a GPU; {remedy}")


def lock() -> threading.Lock:
    """A lock for a whole module, which a forked process finds free."""
    made = threading.Lock()
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(
            before=made.acquire, after_in_parent=made.release, after_in_child=made.release
        )
    return made


def _in_child() -> None:
    global _cut_off
    others = _computing - {threading.get_ident()}
    _cut_off = _cut_off or bool(others)
    _computing.difference_update(others)
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
