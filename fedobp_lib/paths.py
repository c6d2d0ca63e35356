"""Where data, runs and figures are kept: in the project's folder, wherever one stands in it."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UserError

VARIABLES = ("FEDOBP_DATA", "FEDOBP_RUNS", "FEDOBP_FIGURES", "FEDOBP_EXECUTED")


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


def kept_dir(name: str) -> Path:
    """`figures/NAME` of the project, with runs that the repository keeps; where the working
    directory is in no project, of the clone that this package is in."""
    here = project_root() / "figures" / name
    return here if here.is_dir() else Path(__file__).resolve().parents[1] / "figures" / name


def executed_dir(preset: str) -> Path:
    """`$FEDOBP_EXECUTED/PRESET`, else `executed/PRESET` of the project: the executed notebooks."""
    return (_from_environment("FEDOBP_EXECUTED") or project_root() / "executed") / preset


def environment() -> dict[str, str]:
    """The variables of this module that are set, as absolute paths, for a process elsewhere."""
    given = {name: _from_environment(name) for name in VARIABLES}
    return {name: str(path.absolute()) for name, path in given.items() if path is not None}


def expanded(path: str | Path, name: str) -> Path:
    """A path with its `~` replaced.

    Args:
        path: as somebody gave it.
        name: of what it was given for.

    Raises:
        UserError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{name}: there is no home folder for {str(path)!r}") from None


def shown(path: Path) -> str:
    """A path as people should read it: relative to the project where it lies inside."""
    try:
        return str(Path(path).resolve().relative_to(project_root().resolve()))
    except ValueError:
        return str(path)


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name)
    return expanded(value, name) if value else None
