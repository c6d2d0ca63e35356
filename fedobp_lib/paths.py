"""Where data, runs and figures are kept: in the project's folder, wherever one stands in it."""

from __future__ import annotations

import os
from pathlib import Path


def project_root() -> Path:
    """The folder of the kit that holds the working directory, else the working directory."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "fedobp_lib").is_dir():
            return folder
    return here


def data_dir() -> Path:
    """`$FEDOBP_DATA`, else `data/` of the project."""
    return _from_environment("FEDOBP_DATA") or project_root() / "data"


def runs_dir() -> Path:
    """`$FEDOBP_RUNS`, else `runs/` of the project."""
    return _from_environment("FEDOBP_RUNS") or project_root() / "runs"


def figures_dir(preset: str) -> Path:
    """`$FEDOBP_FIGURES/PRESET`, else `figures/PRESET` of the project."""
    return (_from_environment("FEDOBP_FIGURES") or project_root() / "figures") / preset


def shown(path: Path) -> str:
    """A path as people should read it: relative to the project where it lies inside."""
    try:
        return str(Path(path).resolve().relative_to(project_root().resolve()))
    except ValueError:
        return str(path)


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value).expanduser() if value else None
