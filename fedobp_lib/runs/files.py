"""Files that appear whole or not at all, and what is said where they cannot be read or written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from .. import paths
from ..errors import UserError


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _keep(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


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


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    text = frame.to_csv(index=False, lineterminator="\n")
    write(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{paths.shown(path)} cannot be read; delete the folder to compute the run again"
        ) from error


def cannot_write(folder: Path, error: OSError) -> UserError:
    reason = error.strerror or type(error).__name__
    return UserError(f"cannot write the run folder {paths.shown(folder)}: {reason}")
