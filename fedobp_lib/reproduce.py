"""`fedobp reproduce`: compute the runs, then execute the notebooks with papermill.

The runs come first, in this process, under one progress bar that knows the time left; the
notebooks then find them finished and only draw. A notebook executed by itself computes the
runs it needs in the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import paths
from .errors import UserError
from .sweeps import PRESETS, grid, missing, run_all

# The notebooks whose experiments are grids of runs.
GRID_NOTEBOOKS = ("02", "03")


def find_notebooks(only: Sequence[str] | None = None) -> list[Path]:
    """The numbered notebooks of the kit, in order.

    Args:
        only: numbers such as `02`; None: all.

    Raises:
        UserError: the notebooks are not there, or a number is unknown.
    """
    folder = paths.project_root() / "notebooks"
    found = {path.name[:2]: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise UserError("no notebooks here; run this inside a clone of the kit")
    for number in only or ():
        if number not in found:
            raise UserError(f"no notebook {number!r}; there are {', '.join(found)}")
    return [path for number, path in found.items() if not only or number in only]


def reproduce(
    preset: str = "quick",
    only: Sequence[str] | None = None,
    device: str = "auto",
    **parameters: Any,
) -> Path:
    """Execute notebooks at a preset; figures go to `figures/PRESET/`.

    Args:
        preset: a name of `sweeps.PRESETS`.
        only: numbers of notebooks; None: all.
        device: `auto`, `cpu` or `cuda`.
        parameters: datasets, alphas, methods, seeds, rounds; None: the preset's.

    Returns:
        The folder of the executed notebooks.

    Raises:
        UserError: unknown preset, method, data set or notebook.
        papermill.PapermillExecutionError: a cell failed; the executed notebook shows where.
    """
    import papermill

    notebooks = find_notebooks(only)
    given = {name: value for name, value in parameters.items() if value is not None}
    configs = grid(preset, **given)
    if any(path.name[:2] in GRID_NOTEBOOKS for path in notebooks):
        todo = len(missing(configs))
        _say(f"preset {preset}: {PRESETS[preset].purpose}")
        _say(f"{len(configs)} runs: {len(configs) - todo} finished, {todo} to compute")
        run_all(configs, device)

    executed = paths.project_root() / "executed" / preset
    executed.mkdir(parents=True, exist_ok=True)
    values = {name.upper(): _plain(value) for name, value in given.items()}
    for number, path in enumerate(notebooks, 1):
        _say(f"notebook {number}/{len(notebooks)}: {path.name}")
        papermill.execute_notebook(
            str(path),
            str(executed / path.name),
            parameters={"PRESET": preset, "DEVICE": device} | values,
            kernel_name="python3",
            cwd=str(paths.project_root()),
            progress_bar={"file": sys.stderr, "ncols": 79},
            # Kernels warn at every start that they talk over the loopback interface.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    _say(f"figures and tables: {paths.shown(paths.figures_dir(preset))}/")
    _say(f"executed notebooks: {paths.shown(executed)}/")
    return executed


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _say(message: str) -> None:
    print(message, file=sys.stderr)
