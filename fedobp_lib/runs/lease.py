"""Who computes a run: one process of one machine, also where machines share a file system.

A lease is a file that names its owner and that the owner touches now and then. It ends with its
process; if its machine is gone, others take it when it was not touched for `SECONDS`, by their own
clock. Locks of the operating system are not used, as network file systems may not have them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import SoftFileLease, Timeout

from ..errors import UserError

NAME = ".lease"
SECONDS = 60.0


class Busy(UserError):
    """Another process computes the run."""


@contextmanager
def leased(folder: Path, wait: bool = True) -> Iterator[Callable[[], None]]:
    """Hold the lease of a run's folder.

    Args:
        folder: of the run; is there.
        wait: until its present owner is done, which is said; else `Busy` is raised.

    Yields:
        To be called now and then: raises `Busy` when the lease was lost, because this process
        was stopped for long or its disk did not answer. The other's results are the same.

    Raises:
        Busy: it has an owner, and there is no waiting.
        OSError: the folder cannot be written.
    """
    lease = SoftFileLease(folder / NAME, lease_duration=SECONDS)
    try:
        lease.acquire(timeout=0)
    except Timeout:
        message = f"run {folder.name} is being computed by {_owner(lease)}"
        if not wait:
            raise Busy(message) from None
        print(f"{message}; waiting for it", file=sys.stderr)
        lease.acquire(poll_interval=1.0)

    def check() -> None:
        if lease.compromise is not None:
            raise Busy(f"run {folder.name} was taken over by {_owner(lease)}")

    try:
        yield check
    finally:
        lease.release()


class Watch:
    """Another's lease, looked at now and then until it ends.

    A lease of another machine ends when it was not touched for `SECONDS` under the eyes of one
    and the same watcher, so asking anew each time would never see it end.
    """

    def __init__(self, folder: Path) -> None:
        self._lease = SoftFileLease(folder / NAME, lease_duration=SECONDS)

    def ended(self) -> bool:
        """Whether nobody holds it now."""
        try:
            self._lease.acquire(timeout=0)
        except Timeout:
            return False
        except OSError:  # there is no such folder any more
            return True
        self._lease.release()
        return True


def _owner(lease: SoftFileLease) -> str:
    owner = lease.owner
    return "another process" if owner is None else f"process {owner.pid} on {owner.hostname}"
