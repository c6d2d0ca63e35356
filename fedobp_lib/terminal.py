"""Text in 79 columns, for a terminal of 80."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

WIDTH = 79
TOGETHER = "\N{NO-BREAK SPACE}"  # between words that stay on one line


def folded(line: str, indent: int = 4) -> str:
    """A line, broken between words where it is too long.

    Args:
        line: any.
        indent: of what follows the first line.
    """
    if len(line) > WIDTH:
        line = textwrap.fill(
            line, WIDTH, subsequent_indent=" " * indent,
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return line.replace(TOGETHER, " ")


def aligned(rows: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """Lines of a table; the last column, on the left, is broken between words.

    Args:
        rows: cells, the same number in each row; the first row is the header.
        left: columns that begin at the left; numbers do not.
    """
    *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    indent = sum(widths) + 2 * len(widths)
    lines = []
    for *cells, last in rows:
        padded = [
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        wrapped = textwrap.wrap(last, max(20, WIDTH - indent), break_on_hyphens=False)
        lines.append("  ".join([*padded, *wrapped[:1]]).rstrip())
        lines += [" " * indent + more for more in wrapped[1:]]
    return lines
