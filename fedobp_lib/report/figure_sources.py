"""What is behind the tables and figures of a folder: runs, settings, code, machine, data.

`fedobp reproduce` keeps this beside them, in `sources.json`, so that they say it also where the
runs are not: one entry a notebook, naming its runs and what drew its figures, and one a run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from .. import paths
from ..config import ResolvedConfig
from ..runs.files import hashed, read_json, write
from ..runs.integrity import SEAL, is_sealed, sealed
from ..runs.provenance import provenance as made_here
from ..runs.store import RunResult

FILE = "sources.json"

SETTINGS = (
    "dataset", "alpha", "method", "seed", "rounds", "clients", "participation", "local_epochs",
    "batch_size", "lr", "momentum", "model", "pretrained", "protocol", "test_share", "min_samples",
    "pixels", "precision", "partition_seed",
)  # fmt: skip
MANY = 6  # of more values only the number is told
MADE_BY = ("commit", "device", "threads", "python", "torch", "numpy", "system")


@dataclass(frozen=True)
class Run:
    """What made one run: its configuration, the content of its data, and where it was computed."""

    config: dict[str, Any]
    data: str
    seconds: float
    provenance: dict[str, Any]


@dataclass
class Sources:
    """What is behind a folder.

    Attributes:
        notebooks: by number, the ids of its runs.
        drawn: by number, the code and machine that executed it.
        runs: by id.
        files: by number, the hashes of the files that it wrote.
    """

    notebooks: dict[str, list[str]] = field(default_factory=dict)
    drawn: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    files: dict[str, dict[str, str]] = field(default_factory=dict)

    def of(self, numbers: Iterable[str]) -> Sources:
        """The part that belongs to some notebooks."""
        numbers = set(numbers)
        notebooks = {n: ids for n, ids in self.notebooks.items() if n in numbers}
        ids = {run_id for all_ids in notebooks.values() for run_id in all_ids}
        return Sources(
            notebooks,
            {n: made for n, made in self.drawn.items() if n in numbers},
            {run_id: run for run_id, run in self.runs.items() if run_id in ids},
            {n: files for n, files in self.files.items() if n in numbers},
        )

    def changed(self, folder: Path) -> list[str]:
        """Names of files that are there and not as their notebook wrote them."""
        written = {name: digest for files in self.files.values() for name, digest in files.items()}
        there = ((folder / name, digest) for name, digest in sorted(written.items()))
        return [path.name for path, digest in there if path.is_file() and hashed(path) != digest]


def read(folder: Path) -> Sources:
    """What a folder's file says; nothing where there is none.

    One that is not as it was written counts as none, which costs a warning.
    """
    path = folder / FILE
    if not path.exists():
        return Sources()
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if not is_sealed(known):
            raise ValueError
        return Sources(
            known["notebooks"],
            known["drawn"],
            {run_id: Run(**run) for run_id, run in known["runs"].items()},
            known.get("files", {}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        print(f"warning: {paths.shown(path)} is damaged and left out", file=sys.stderr)
        return Sources()


def record(
    folder: Path,
    notebook: str,
    run_ids: Sequence[str],
    device: torch.device | None = None,
    files: dict[str, str] | None = None,
) -> None:
    """Say what is behind one notebook's files; what the others have stays.

    Args:
        folder: of the tables and figures.
        notebook: its number.
        run_ids: its finished runs, in `paths.runs_dir()`.
        device: where it was executed just now; None: it was not.
        files: names and hashes of what it wrote; None: not known.
    """
    known = read(folder)
    known.notebooks[notebook] = sorted(set(run_ids))
    if device is not None:
        made = made_here(device)
        known.drawn[notebook] = {name: made[name] for name in (*MADE_BY, "uncommitted_changes")}
    known.runs |= {run_id: _run(run_id) for run_id in known.notebooks[notebook]}
    if files is not None:
        known.files[notebook] = files
    known = known.of(known.notebooks)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / FILE, lambda file: file.write(_text(known).encode()))


def _run(run_id: str) -> Run:
    result = RunResult(paths.runs_dir() / run_id)
    data = read_json(result.directory / "config.json")["data"]
    made = result.summary["provenance"]
    return Run(asdict(result.config), data, result.summary["seconds_total"], made)


def _text(known: Sources) -> str:
    """JSON with a line an entry, so that changes can be read."""
    content = asdict(known)
    parts = []
    for name, entries in content.items():
        lines = [f"{json.dumps(key)}: {json.dumps(entries[key])}" for key in sorted(entries)]
        parts.append(f'"{name}": {{\n' + ",\n".join(lines) + "\n}")
    parts.append(f'"{SEAL}": "{sealed(content)[SEAL]}"')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def settings(sources: Sources) -> pd.DataFrame:
    """A row a setting, a column a notebook: the values that its runs have."""
    columns = {}
    for notebook, ids in sorted(sources.notebooks.items()):
        configs = [ResolvedConfig(**sources.runs[run_id].config) for run_id in ids]
        if configs:
            columns[f"notebook {notebook}"] = {"runs": str(len(configs))} | {
                name.replace("_", " "): _values([getattr(c, name) for c in configs])
                for name in SETTINGS
            }
    return pd.DataFrame(columns).rename_axis("setting").reset_index()


def _values(values: Sequence[Any]) -> str:
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(distinct) > MANY:
        return f"{len(distinct)} of them"
    return ", ".join(map(_told, distinct))


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:g}"


def provenance(sources: Sources) -> pd.DataFrame:
    """A row for every code version and machine that computed some of the runs."""
    rows = []
    for run in sources.runs.values():
        made = {name: run.provenance[name] for name in MADE_BY}
        made["commit"] = _commit(run.provenance)
        rows.append(made | {"finished": run.provenance["finished"], "seconds": run.seconds})
    frame = pd.DataFrame(rows, columns=[*MADE_BY, "finished", "seconds"])
    return (
        frame.groupby(list(MADE_BY), sort=False)
        .agg(
            runs=("seconds", "count"),
            first=("finished", "min"),
            last=("finished", "max"),
            compute_minutes=("seconds", lambda seconds: seconds.sum() / 60),
        )
        .reset_index()
    )


def _commit(made: dict[str, Any]) -> str:
    changed = " + uncommitted changes" if made["uncommitted_changes"] else ""
    return (made["commit"] or "unknown")[:12] + changed


def drawings(sources: Sources) -> pd.DataFrame:
    """A row for every code version and machine that executed notebooks: which, and what it was."""
    notebooks: dict[str, list[str]] = {}
    for number, made in sorted(sources.drawn.items()):
        notebooks.setdefault(json.dumps(made), []).append(number)
    rows = [
        {"notebooks": " ".join(numbers)}
        | {name: made[name] for name in MADE_BY if name != "threads"}
        | {"commit": _commit(made)}
        for made, numbers in ((json.loads(text), found) for text, found in notebooks.items())
    ]
    return pd.DataFrame(rows)


def fingerprints(sources: Sources) -> pd.DataFrame:
    """Which content each data set of the runs had: data set, fingerprint, runs."""
    rows = [[run.config["dataset"], run.data] for run in sources.runs.values()]
    frame = pd.DataFrame(rows, columns=["data set", "fingerprint"])
    return frame.value_counts(sort=False).rename("runs").reset_index()
