"""Whether an executed notebook is up to date, so that `fedobp reproduce` need not execute it again.

An executed notebook carries a stamp: a hash of all that decided its outputs, and the hashes of
the files that it wrote. It is up to date while both still hold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..runs.files import hashed, write

KEY = "fedobp"


def stamp(notebook: Path, parameters: dict[str, Any], run_ids: Iterable[str], data: Path) -> str:
    """A hash of a notebook's source, parameters and runs, the library, and the data files there.

    Args:
        notebook: the file that is executed.
        parameters: what it is given, ready for JSON.
        run_ids: names of the runs that it shows.
        data: folder of the data sets; names, times and sizes count.
    """
    digest = hashlib.blake2b(digest_size=16)
    package = Path(__file__).parents[1]
    sources = (path for path in package.rglob("*") if path.suffix in (".py", ".csv", ".j2"))
    for path in [notebook, *sorted(sources)]:
        digest.update(path.read_bytes())
    states = ((path.name, path.stat()) for path in data.glob("*.npz"))
    here = sorted((name, state.st_mtime_ns, state.st_size) for name, state in states)
    digest.update(json.dumps([parameters, sorted(run_ids), here], sort_keys=True).encode())
    return digest.hexdigest()


def written_since(folder: Path, before: dict[str, int]) -> dict[str, str]:
    """Names and hashes of the files of a folder that are new or newer than `before`.

    Args:
        before: what `times` gave.
    """
    now = times(folder)
    names = sorted(name for name, time in now.items() if before.get(name) != time)
    return {name: hashed(folder / name) for name in names}


def times(folder: Path) -> dict[str, int]:
    """When each file of a folder was last written, in nanoseconds; empty if there is none."""
    if not folder.is_dir():
        return {}
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


def mark(executed: Path, mark: str, files: dict[str, str]) -> None:
    """Write the stamp into an executed notebook."""
    notebook = json.loads(executed.read_text(encoding="utf-8"))
    kept = {"stamp": mark, "notebook": _digest(notebook), "files": files}
    notebook["metadata"][KEY] = kept
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    write(executed, lambda file: file.write(text.encode()))


def is_current(executed: Path, mark: str, folder: Path) -> bool:
    """Whether an executed notebook has this stamp, and it and its files are as they were.

    Args:
        folder: where it wrote them.
    """
    try:
        notebook = json.loads(executed.read_text(encoding="utf-8"))
        kept = notebook["metadata"][KEY]
        files = all(hashed(folder / name) == digest for name, digest in kept["files"].items())
        return files and (kept["stamp"], kept["notebook"]) == (mark, _digest(notebook))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def files_of(executed: Path) -> dict[str, str]:
    """Names and hashes of the files that an executed notebook wrote."""
    return json.loads(executed.read_text(encoding="utf-8"))["metadata"][KEY]["files"]


def _digest(notebook: dict[str, Any]) -> str:
    """Of an executed notebook without its stamp."""
    metadata = {name: value for name, value in notebook["metadata"].items() if name != KEY}
    text = json.dumps(notebook | {"metadata": metadata}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
