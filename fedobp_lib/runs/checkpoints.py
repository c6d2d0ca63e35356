"""A run's checkpoint: written now and then, so that an interruption costs little time."""

from __future__ import annotations

import os
import sys
import time
import zipfile
from pathlib import Path

import torch

from ..errors import HalfRestored, UserError
from ..simulation import Simulation
from .files import write

VARIABLE = "FEDOBP_CHECKPOINT_SECONDS"
SECONDS = 60.0
SHARE = 0.02


class Checkpoint:
    """The file from which a run goes on.

    It appears whole or not at all, so a kill at any moment leaves the last one.

    Raises:
        UserError: the environment says no time.

    Args:
        path: of the file.
        seconds: least time between two; 0: after every round; None: by the environment's
            `FEDOBP_CHECKPOINT_SECONDS`, else `SECONDS`.
        share: of the run's time that writing may take; where writing is slow, for instance
            because a large model's rows are many gigabytes, checkpoints come more rarely.
    """

    def __init__(self, path: Path, seconds: float | None = None, share: float = SHARE) -> None:
        self.path = path
        self._seconds = _seconds() if seconds is None else seconds
        self._share = share
        self._wait = self._seconds
        self._written = time.monotonic()
        self._warned = False

    def save_if_due(self, simulation: Simulation) -> bool:
        """Write it if the last one is old enough; see `save`."""
        due = time.monotonic() - self._written >= self._wait
        return due and self.save(simulation)

    def save(self, simulation: Simulation) -> bool:
        """Write it; one that cannot be written costs a warning, and the last one stays.

        Returns whether it is written.
        """
        began = time.monotonic()
        try:
            write(self.path, lambda file: torch.save(simulation.state(), file))
        except (OSError, RuntimeError) as error:
            # PyTorch closes its archive after a failed write, and complains of that instead.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            if not self._warned:
                _warn(f"no checkpoint of run {self.path.parent.name} written: {cause.strerror}")
            self._warned = True
        else:
            self._warned = False
        self._written = time.monotonic()
        if self._seconds > 0:
            self._wait = max(self._seconds, (self._written - began) / self._share)
        return not self._warned

    def restore(self, simulation: Simulation) -> None:
        """Let the simulation go on from here; a file that cannot be read costs a warning.

        Raises:
            MemoryError, torch.OutOfMemoryError: as starting over would not help.
            HalfRestored: as this simulation cannot start over.
        """
        if not self.path.is_file():
            return
        try:
            require_whole(self.path)
            # Read piece by piece into the tensors that are there: a GPU may not hold them twice.
            state = torch.load(self.path, map_location="cpu", mmap=True, weights_only=True)
            simulation.load_state(state)
        except (MemoryError, torch.OutOfMemoryError, HalfRestored):
            raise
        except UserError as error:
            _warn(f"{error}; starting over")
        except Exception as error:
            _warn(f"the checkpoint cannot be read ({type(error).__name__}); starting over")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def require_whole(path: Path) -> None:
    """Raise ValueError or OSError unless a file that PyTorch has written is as it was written.

    PyTorch writes a checksum of each part of its archive, and does not look at it in reading.
    """
    with zipfile.ZipFile(path) as archive:
        part = archive.testzip()
    if part is not None:
        raise ValueError(f"{part} is not as it was written")


def _seconds() -> float:
    text = os.environ.get(VARIABLE)
    try:
        seconds = SECONDS if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{VARIABLE} must be a number of seconds, got {text!r}")
    return seconds


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
