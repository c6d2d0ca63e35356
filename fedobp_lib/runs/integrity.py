"""Whether a run folder holds what was written into it.

`summary.json` has a checksum of every other file and one of itself. A run from before there were
checksums counts as whole if its files can be there at all.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FILES = ("config.json", "history.csv", "layers.csv", "clients.csv")
MORE = ("traffic.csv",)  # what only some runs have
SEAL = "checksum"
# What the summary of every finished run has; the provenance names at least the device.
SUMMARY = (
    "final", "provenance", "parameters", "personalized_parameters", "seconds_total",
    "seconds_per_round", "seconds_evaluation",
)  # fmt: skip


def checksums(folder: Path) -> dict[str, str]:
    """BLAKE2 of each of a run's files, by name."""
    there = [*FILES, *(name for name in MORE if (folder / name).is_file())]
    return {name: _digest((folder / name).read_bytes()) for name in there}


def sealed(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary with its own checksum."""
    return summary | {SEAL: _digest(_text(summary))}


def is_sealed(content: dict[str, Any]) -> bool:
    """Whether what `sealed` made is as it was; what has no checksum is taken as it is."""
    rest = {name: value for name, value in content.items() if name != SEAL}
    return content.get(SEAL) in (None, sealed(rest)[SEAL])


def is_complete(summary: Any) -> bool:
    """Whether a summary has all that is read of it."""
    if not (isinstance(summary, dict) and all(name in summary for name in SUMMARY)):
        return False
    final, made = summary["final"], summary["provenance"]
    if not (isinstance(final, dict) and isinstance(made, dict) and "device" in made):
        return False
    return all(isinstance(numbers, dict) and "pooled" in numbers for numbers in final.values())


def fault(folder: Path) -> str | None:
    """What is wrong with the files of a finished run; None: nothing."""
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return "summary.json cannot be read"
    if not is_complete(summary):
        return "summary.json lacks what belongs there"
    known = summary.pop(SEAL, None)
    if known is None and "files" not in summary:
        needed = ("config.json", "history.csv", "layers.csv")
        lost = [n for n in needed if not (folder / n).is_file() or not (folder / n).stat().st_size]
        return f"{lost[0]} is missing or empty" if lost else None
    if known != _digest(_text(summary)):
        return "summary.json is not as it was written"
    for name, digest in summary["files"].items():
        try:
            content = (folder / name).read_bytes()
        except OSError:
            return f"{name} cannot be read"
        if _digest(content) != digest:
            return f"{name} is not as it was written"
    return None


def set_aside(folder: Path) -> Path:
    """Move the files of a damaged run into a folder `ID.bad`, which nobody reads; returns it.

    The summary goes first, so that a kill in between leaves an unfinished run.

    Raises:
        OSError: they cannot be moved.
    """
    number, bad = 1, folder.with_name(f"{folder.name}.bad")
    while bad.exists():
        number += 1
        bad = folder.with_name(f"{folder.name}.bad{number}")
    bad.mkdir()
    for name in ("summary.json", *FILES, *MORE, "checkpoint.pt"):
        if (folder / name).exists():
            (folder / name).rename(bad / name)
    return bad


def _text(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
