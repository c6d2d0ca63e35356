"""Progress bars with the time left: on standard error, or in a notebook under the cell.

In a notebook the bar vanishes when the work is done, so that saved outputs hold results only. Where
standard error is no terminal but a file, it gets a line now and then.
"""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

SECONDS_A_LINE = 30.0  # in a log


class _CellOutput:
    """A file whose text replaces what it showed before, in one output of the running cell."""

    def __init__(self) -> None:
        from IPython.display import display

        self._shown = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        self._shown.update({"text/plain": text.strip()}, raw=True)

    def flush(self) -> None:
        pass


class _LogLines:
    """A file for logs: of all that a bar draws it writes a line at most every so many seconds."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def write(self, text: str) -> None:
        line, now = text.strip("\r\n "), time.monotonic()
        if line and now - self._last >= SECONDS_A_LINE:
            self._last = now
            print(line, file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(total: int, show: bool | None, done: int = 0) -> tqdm:
    """A bar that counts rounds.

    Args:
        total: rounds in all.
        show: False: a bar that draws nothing; None: draw if somebody looks (a terminal or a
            notebook); True: also where nobody does, as lines.
        done: rounds finished before; the time left is judged from the others.
    """
    cell = show is not False and in_notebook()
    in_terminal = sys.stderr.isatty()
    if show is None:
        show = cell or in_terminal
    return tqdm(
        total=total,
        initial=done,
        unit="round",
        file=_CellOutput() if cell else sys.stderr if in_terminal else _LogLines(),
        ncols=79 if cell or not in_terminal else None,
        dynamic_ncols=in_terminal and not cell,
        disable=not show,
        leave=False,
    )


def tell(line: str) -> None:
    """Say something on standard error that whoever watches must know, above a bar that is shown."""
    tqdm.write(line, file=sys.stderr)
    sys.stderr.flush()


def in_notebook() -> bool:
    """Whether this runs in a cell of a notebook."""
    # A kernel has imported IPython before any cell runs.
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")
