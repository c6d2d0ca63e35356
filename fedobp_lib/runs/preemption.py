"""SIGTERM, which batch systems send before they take a machine away: stop, and lose nothing.

A run that is asked to stop finishes its round, writes its checkpoint and raises
`errors.Preempted`. The same command continues from there.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_asked = threading.Event()


@contextmanager
def watching() -> Iterator[None]:
    """Within, SIGTERM asks runs to stop. Outside of a program's main thread it changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked.clear()
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _asked.clear()


def asked() -> bool:
    """Whether the process was asked to end."""
    return _asked.is_set()


def ask(*_: Any) -> None:
    """Ask the process to end, as SIGTERM does."""
    _asked.set()
