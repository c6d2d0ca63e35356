"""Progress bars with the time left: on standard error, or in a notebook under the cell.

In a notebook the bar vanishes when the work is done, so that saved outputs hold results only.
"""

from __future__ import annotations

import sys

from tqdm import tqdm


class _CellOutput:
    """A file whose text replaces what it showed before, in one output of the running cell."""

    def __init__(self) -> None:
        from IPython.display import display

        self._shown = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        self._shown.update({"text/plain": text.strip()}, raw=True)

    def flush(self) -> None:
        pass


def progress_bar(total: int, show: bool | None, done: int = 0) -> tqdm:
    """A bar that counts rounds.

    Args:
        total: rounds in all.
        show: False: a bar that draws nothing; None: draw if somebody looks (a terminal or a
            notebook).
        done: rounds finished before; the time left is judged from the others.
    """
    cell = show is not False and in_notebook()
    if show is None:
        show = cell or sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        unit="round",
        file=_CellOutput() if cell else sys.stderr,
        ncols=79 if cell else None,
        dynamic_ncols=not cell,
        disable=not show,
        leave=False,
    )


def in_notebook() -> bool:
    """Whether this runs in a cell of a notebook."""
    # A kernel has imported IPython before any cell runs.
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
