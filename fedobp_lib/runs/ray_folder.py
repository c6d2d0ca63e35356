"""The run folder of a sweep on Ray: how nodes know that they see it, and what others send."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from .. import paths
from ..errors import UserError, one_line
from . import checkpoints
from .archive import import_runs
from .computing import LOG, Event, pointer
from .files import write, writing_to
from .ray_task import Message


@contextmanager
def token(home: Path) -> Iterator[str]:
    """Within, a file is in the folder of all runs, by which a node knows that it sees the folder.

    Yields:
        Its name.

    Raises:
        UserError: it cannot be written.
    """
    path = home / f".sweep-{uuid.uuid4().hex}"
    with writing_to(home):
        write(path, lambda file: file.write(b""))
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


def environment(home: Path) -> dict[str, str]:
    """Variables of this process that count on a node, too, except where it has its own."""
    folders = {"FEDOBP_RUNS": str(home), "FEDOBP_DATA": str(paths.data_dir().absolute())}
    pace = os.environ.get(checkpoints.VARIABLE)
    return folders if pace is None else folders | {checkpoints.VARIABLE: pace}


def received(message: Message, home: Path) -> Event:
    """What happened, when what the message brings is in its place in the folder of all runs."""
    event, folder = message.event, home / message.event.run
    if message.archive:
        reason = _taken_in(message.archive, home)
        if reason:
            return Event(event.run, "failed", text=f"its files did not come back: {reason}")
        for name in (LOG, "checkpoint.pt"):  # of an earlier try here
            (folder / name).unlink(missing_ok=True)
    if message.log:
        with suppress(OSError):  # there is no room for it
            folder.mkdir(exist_ok=True)
            write(folder / LOG, lambda file: file.write(message.log.encode()))
            return replace(event, text=event.text + pointer(folder / LOG))
    return event


def _taken_in(archive: bytes, home: Path) -> str | None:
    """Put the run of an archive in its place; returns what went wrong, if anything."""
    try:
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(temporary) / "run.tar.gz"
            source.write_bytes(archive)
            done = import_runs(source, home)
    except (UserError, OSError) as error:  # no room, for instance
        return one_line(error)
    return done.refused[0][1] if done.refused else None
