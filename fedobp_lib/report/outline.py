"""The notebooks as an outline: their headings and texts, and which file each cell writes.

The notebooks are the one place that says which table or figure is what, so that a page about
the files of a preset is put in order by reading them.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

SYMBOLS = {
    "theta": "θ", "tau": "τ", "alpha": "α", "ge": "≥", "le": "≤", "cdot": "·", "times": "×",
    "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "sum": "Σ", "in": "∈",
    "tilde": "", "left": "", "right": "", "mathcal": "", "frac": "",
}  # fmt: skip


@dataclass
class Part:
    """A markdown cell and the names of the files that the code cells after it write."""

    heading: str
    text: str
    files: list[str] = field(default_factory=list)


@dataclass
class Chapter:
    """A notebook: its number, its title, and its parts; the first has the introduction."""

    number: str
    title: str
    parts: list[Part]

    @property
    def files(self) -> list[str]:
        return [name for part in self.parts for name in part.files]


def outline(notebooks: Sequence[Path], names: Iterable[str]) -> tuple[list[Chapter], list[str]]:
    """Sort files into the notebooks that write them.

    A cell writes a file if a text in it is the file's name; a placeholder in an f-string stands
    for any text. Of several cells, the one whose text has most letters in common is taken.

    Args:
        notebooks: their paths, in order.
        names: of files, without ending.

    Returns:
        The chapters, also those without files, and the names that no cell has.
    """
    chapters, claims = [], []
    for path in notebooks:
        chapter = Chapter(path.name[:2], path.stem, [])
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                heading, text = _split(cell.source)
                chapter.parts.append(Part(heading, text))
            elif cell.cell_type == "code" and chapter.parts:
                claims += [(*text, chapter.parts[-1]) for text in _texts(cell.source)]
        if chapter.parts:
            chapter.title = chapter.parts[0].heading or chapter.title
        chapters.append(chapter)
    found, left = [], []
    for name in sorted(names):
        fitting = [k for k, (pattern, _, _) in enumerate(claims) if pattern.fullmatch(name)]
        if fitting:
            found.append((max(fitting, key=lambda k: claims[k][1]), name))
        else:
            left.append(name)
    for claim, name in sorted(found):  # in the order of the cells
        claims[claim][2].files.append(name)
    return chapters, left


def _texts(source: str) -> list[tuple[re.Pattern, int]]:
    """Patterns of the texts in a cell, in order, each with its number of fixed letters."""
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant | ast.JoinedStr)]
    found = []
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
        values = node.values if isinstance(node, ast.JoinedStr) else [node]
        fixed = [
            v.value if isinstance(v, ast.Constant) and isinstance(v.value, str) else None
            for v in values
        ]
        letters = sum(len(text) for text in fixed if text)
        if letters:
            pattern = "".join(".+" if text is None else re.escape(text) for text in fixed)
            found.append((re.compile(pattern), letters))
    return found


def _split(markdown: str) -> tuple[str, str]:
    first, _, rest = markdown.strip().partition("\n")
    if first.startswith("#"):
        return first.lstrip("# ").strip(), rest.strip()
    return "", markdown.strip()


def to_html(markdown: str) -> str:
    """Markdown as HTML; formulas between dollars as plain letters, so that no script is needed."""
    from nbconvert.filters import markdown2html  # slow to import; comes with JupyterLab

    return markdown2html(re.sub(r"\$([^$]+)\$", lambda match: _formula(match[1]), markdown))


def _formula(tex: str) -> str:
    text = re.sub(r"\\([A-Za-z]+)", lambda match: SYMBOLS.get(match[1], match[1]), tex)
    text = html.escape(text, quote=False).replace("-", "−")
    for mark, tag in (("_", "sub"), ("^", "sup")):
        text = re.sub(rf"\{mark}(?:\{{([^{{}}]*)\}}|(\w))", rf"<{tag}>\1\2</{tag}>", text)
    return f"<i>{text.replace('{', '').replace('}', '')}</i>"
