"""The parameters that a notebook was given, checked before anything is computed with the others."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from ..errors import unknown

INJECTED = "# Parameters"  # how papermill's cell begins


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse parameters that papermill was given and the notebook does not have.

    Args:
        cells: the cells executed so far, IPython's `In`. The notebook's own parameters are what
            its first cell sets.

    Raises:
        UserError: an unknown parameter; the message names the nearest one.
    """
    executed = [cell for cell in cells if cell.strip()]
    known = _names(executed[0]) if executed else []  # nbval keeps no cells, and gives no parameters
    for cell in executed[1:]:
        if cell.startswith(INJECTED):
            for name in _names(cell):
                if name not in known:
                    raise unknown("parameter", name, known)


def _names(cell: str) -> list[str]:
    assigned = (node for node in ast.parse(cell).body if isinstance(node, ast.Assign))
    return [
        target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)
    ]
