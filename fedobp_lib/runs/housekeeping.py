"""Run folders looked after: what is damaged, what nobody needs, how two runs differ."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from .. import paths
from ..methods.disk_bank import PATTERN as BANKS
from .files import leftovers
from .lease import NAME as LEASE
from .store import RunResult, damage, folders, is_finished


def damaged(runs: Iterable[Path]) -> dict[str, str]:
    """What is wrong with each run that is not as it was written."""
    return {folder.name: reason for folder in runs if (reason := damage(folder))}


def rubbish(directory: str | Path | None = None, partial: bool = False) -> list[Path]:
    """What nobody needs any more: damaged runs that were set aside, checkpoints of finished runs
    and the rows of their clients, files that were not written to their end.

    Folders that a process has the lease of are left alone.

    Args:
        directory: folder of all runs.
        partial: also runs that are not finished.
    """
    home = Path(directory) if directory is not None else paths.runs_dir()
    if not home.is_dir():
        return []
    found = [f for f in sorted(home.iterdir()) if ".bad" in f.name or f.name.endswith(".import")]
    for folder in folders(home):
        if (folder / LEASE).exists():
            continue
        if partial and not (folder / "summary.json").exists():
            found.append(folder)
            continue
        found += leftovers(folder)
        if is_finished(folder):
            found += [f for name in ("checkpoint.pt", BANKS) for f in sorted(folder.glob(name))]
    return found


def remove(things: Iterable[Path]) -> int:
    """Remove files and folders; returns how many bytes they had."""
    freed = 0
    for thing in things:
        files = [thing] if thing.is_file() else [f for f in thing.rglob("*") if f.is_file()]
        freed += sum(file.stat().st_size for file in files)
        if thing.is_dir():
            shutil.rmtree(thing)
        else:
            thing.unlink(missing_ok=True)
    return freed


def difference(one: RunResult, two: RunResult) -> dict[str, Any]:
    """How two finished runs differ.

    Returns:
        `settings`, name: (of one, of two), where they differ; `provenance` likewise; `accuracy`,
        stage: (of one, of two), pooled in the last round, percent; `first_round`, the first one
        in which a number of their histories differs, or None.
    """
    configs = [_flat(asdict(run.config)) for run in (one, two)]
    made = [run.summary["provenance"] for run in (one, two)]
    finals = [run.summary["final"] for run in (one, two)]
    return {
        "settings": _unequal(*configs),
        "provenance": _unequal(*made),
        "accuracy": {
            stage: tuple(final.get(stage, {}).get("pooled") for final in finals)
            for stage in dict.fromkeys([*finals[0], *finals[1]])
        },
        "first_round": _first_round(one.history, two.history),
    }


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    settings = config.pop("settings")
    return config | {f"settings.{name}": value for name, value in settings.items()}


def _unequal(one: dict[str, Any], two: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys([*one, *two])
    return {n: (one.get(n), two.get(n)) for n in names if one.get(n) != two.get(n)}


def _first_round(one: pd.DataFrame, two: pd.DataFrame) -> int | None:
    keys = ["round", "stage", "scope", "average"]
    both = one.merge(two, on=keys, how="outer", suffixes=("_one", "_two"))
    same = (both["accuracy_one"] == both["accuracy_two"]) & (both["loss_one"] == both["loss_two"])
    return None if same.all() else int(both.loc[~same, "round"].min())
