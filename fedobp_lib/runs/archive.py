"""Finished runs as one file, to be carried to another machine and merged with the runs there.

The archive is a compressed tar file with `ID/config.json`, the CSV files and `ID/summary.json` of
each run. Nothing in it is trusted: names are checked, and a run comes in only if its files are as
its checksums say.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from .. import paths
from ..errors import UserError
from .files import cannot_write, write
from .integrity import FILES, MORE, fault
from .store import is_finished

MEMBERS = (*FILES, *MORE, "summary.json")
LARGEST = 2**30  # bytes of a file of a run
BLOCK = 2**20


@dataclass
class Imported:
    """What became of an archive's runs, by their ids.

    Attributes:
        new: they are here now.
        known: they were here; those stay.
        refused: id and reason.
    """

    new: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def export_runs(runs: Iterable[Path], target: Path) -> int:
    """Write finished runs into an archive; returns how many.

    Args:
        runs: folders; those that are not whole are left out.
        target: the file, which appears whole or not at all.

    Raises:
        UserError: nothing to write, or it cannot be written.
    """
    whole = [folder for folder in runs if is_finished(folder)]
    if not whole:
        raise UserError("no finished run to export")

    def fill(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for folder in whole:
                for name in MEMBERS:
                    if (folder / name).is_file():
                        archive.add(folder / name, f"{folder.name}/{name}", filter=_nameless)

    try:
        write(target, fill)
    except OSError as error:
        raise UserError(f"cannot write {paths.shown(target)}: {error.strerror}") from error
    return len(whole)


def import_runs(source: Path, home: Path) -> Imported:
    """Take in the runs of an archive that are whole and not here yet.

    Args:
        source: the archive.
        home: folder of all runs.

    Raises:
        UserError: it is no archive of runs, or `home` cannot be written.
    """
    try:
        found = _read(source)
    except FileNotFoundError:
        raise UserError(f"there is no file {paths.shown(source)}") from None
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
        raise UserError(f"{paths.shown(source)} is no archive of runs: {told}") from error
    done = Imported()
    for name, files in found.items():
        if is_finished(home / name):
            done.known.append(name)
            continue
        try:
            reason = _place(files, home / name)
        except OSError as error:
            raise cannot_write(home, error) from error
        if reason is None:
            done.new.append(name)
        else:
            done.refused.append((name, reason))
    return done


def _place(files: dict[str, bytes], folder: Path) -> str | None:
    """Put a run in its place; returns what is wrong with it, if anything."""
    waiting = folder.with_name(f".{folder.name}.import")
    shutil.rmtree(waiting, ignore_errors=True)
    waiting.mkdir(parents=True)
    try:
        for name, content in files.items():
            (waiting / name).write_bytes(content)
        reason = fault(waiting) if "summary.json" in files else "it is not finished"
        if reason is None:
            folder.mkdir(exist_ok=True)
            for name in MEMBERS:  # the summary, which marks a finished run, is the last
                if name in files:
                    write(folder / name, partial(_fill, content=files[name]))
        return reason
    finally:
        shutil.rmtree(waiting, ignore_errors=True)


def _fill(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _read(source: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(source, "r:*") as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts
            proper = len(parts) == 2 and parts[0].replace("-", "").isalnum() and parts[1] in MEMBERS
            if not proper or not member.isfile() or member.size > LARGEST:
                raise ValueError(f"{member.name!r} does not belong there")
            content = archive.extractfile(member)
            found.setdefault(parts[0], {})[parts[1]] = (content or io.BytesIO()).read()
        while archive.fileobj and archive.fileobj.read(BLOCK):  # the checksum of all is the last
            pass
    if not found:
        raise ValueError("it is empty")
    return found


def _nameless(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without who made it on which machine."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
