"""Files that appear whole or not at all, and what is said where they cannot be read or written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from .. import paths
from ..errors import UserError

LEFTOVER = re.compile(r"\..+\.\d+")


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all; where a link leads, and into a device or pipe as it comes.

    Raises:
        OSError: it cannot be written; its `filename` says which.
    """
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():
            with open(path, "wb") as file:
                fill(file)
        else:
            _write_whole(path, fill)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _write_whole(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # see LEFTOVER
    try:
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _keep(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove files whose writing was cut off by a kill, which may be as large as the whole ones.

    Args:
        folder: nobody else may be writing there.
    """
    for path in leftovers(folder):
        path.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Files of a folder that were not written to their end, or are being written."""
    return [path for path in sorted(folder.iterdir()) if LEFTOVER.fullmatch(path.name)]


def _keep(folder: Path) -> None:
    """Have a folder's new names survive a loss of power, where the system can do it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    try:
        write(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise cannot_write(path.parent, error) from error


def write_csv(path: Path, frame: pd.DataFrame, float_format: str | None = None) -> None:
    text = frame.to_csv(index=False, lineterminator="\n", float_format=float_format)
    write(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path) from error


def read_csv(path: Path, columns: Sequence[str], text: bool = False) -> pd.DataFrame:
    """A file that `write_csv` has written.

    Args:
        columns: what it has at least.
        text: leave all cells as they stand, to be written again.

    Raises:
        UserError: it is missing, empty or cut off, or lacks a column.
    """
    try:
        frame = pd.read_csv(path, dtype=str, na_filter=False) if text else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise damaged(path) from error
    if not is_whole(path) or not set(columns) <= set(frame.columns):
        raise damaged(path)
    return frame


def hashed(path: Path) -> str:
    """BLAKE2 of a file's content."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def is_whole(path: Path) -> bool:
    """Whether a text file is there and ends with a line's end, as all that are written here do."""
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
    except OSError:  # missing, or empty
        return False


def damaged(path: Path) -> UserError:
    """What is said of a run's file that is not as it was written."""
    return UserError(f"{paths.shown(path)} is damaged; computing the run again replaces it")


def check_writable(folder: Path) -> None:
    """Make a folder and try to write there.

    Raises:
        UserError: that is not possible.
    """
    with writing_to(folder):
        probe = folder / f".probe.{os.getpid()}"
        write(probe, lambda file: file.write(bytes(4096)))
        probe.unlink()


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Make a folder; within, say in one line that something cannot be written.

    Raises:
        UserError: for an OSError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"cannot write to {paths.shown(folder)}: {reason}") from error


def cannot_write(folder: Path, error: OSError) -> UserError:
    reason = error.strerror or type(error).__name__
    return UserError(f"cannot write the run folder {paths.shown(folder)}: {reason}")
