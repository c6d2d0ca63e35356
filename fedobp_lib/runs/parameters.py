"""The parameters that a notebook was given, checked before anything is computed with them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from .. import paths
from ..data.datasets import is_here
from ..errors import unknown
from ..training.backends import choose_device
from ..typed import as_declared
from .files import check_writable
from .presets import SOURCES, grid

INJECTED = "# Parameters"  # how papermill's cell begins
GRID = ("PRESET", "DATASETS", "ALPHAS", "METHODS", "SEEDS", "ROUNDS")


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse parameters that the notebook does not have, and values that cannot be used.

    Args:
        cells: the cells executed so far, IPython's `In`. The notebook's own parameters are what
            its first cell sets; their values are those of the last cell that sets them.

    Raises:
        UserError: an unknown parameter, preset, data set, method, source or device, a value of
            another type, or a folder of figures that cannot be written.
    """
    executed = [cell for cell in cells if cell.strip()]
    if not executed:  # nbval keeps no cells, and gives no parameters
        return
    values = _values(executed[0])
    for cell in executed[1:]:
        given = _values(cell)
        for name in given if cell.startswith(INJECTED) else ():
            if name not in values:
                raise unknown("parameter", name, values)
        values |= {name: value for name, value in given.items() if name in values}
    _check({name: value for name, value in values.items() if value is not ...})


def _values(cell: str) -> dict[str, Any]:
    """What a cell sets, by name; an ellipsis stands for what only Python knows."""
    try:
        assigned = [node for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
    except SyntaxError:  # one of IPython's own commands
        return {}
    return {
        target.id: _literal(node.value)
        for node in assigned
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return ...


def _check(values: Mapping[str, Any]) -> None:
    source = values.get("SOURCE", "ours")
    if source not in SOURCES:
        raise unknown("source", source, SOURCES)
    if "DEVICE" in values:
        choose_device(as_declared("DEVICE", values["DEVICE"], str))
    configs = grid(**{name.lower(): values[name] for name in GRID if name in values})
    configs[0].resolved()  # checks the size that all share
    for dataset in {config.dataset for config in configs}:
        is_here(dataset)
    if source == "ours" and "PRESET" in values:
        check_writable(paths.figures_dir(values["PRESET"]))
