"""`fedobp report`: all tables and figures of a preset as one HTML page.

The page needs nothing beside it and no network. It holds what is in `figures/PRESET/`, in the
order of the notebooks, with the settings and the provenance of the runs behind it.
"""

from __future__ import annotations

import base64
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from .. import paths
from ..errors import UserError, unknown
from ..paper.deviations import DEVIATIONS
from ..results.comparison_text import readable_comparison
from ..runs.experiments import EXPERIMENTS, Experiment
from ..runs.files import write
from ..runs.presets import PRESETS
from . import figure_sources
from .outline import outline, to_html
from .reproduce import find_notebooks

LONG, FIRST = 60, 20  # a table of more rows than LONG shows the FIRST, and is folded
PNG_END = b"IEND\xaeB`\x82"  # the last bytes of every whole PNG
DPI = 200 / 96  # pixels of a saved figure to one of the screen

# Published tables, and the file that has them beside ours.
COMPARED = (
    ("Tables 1 and 6", "comparison_tables_1_and_6"),
    ("Table 7", "table_7_resnet18"),
    ("Table 8", "normalizations"),
)


@dataclass(frozen=True)
class Table:
    """Formatted cells: (name, is a number) of each column, rows, and how many there are in all."""

    columns: list[tuple[str, bool]]
    rows: list[list[str]]
    total: int


@dataclass(frozen=True)
class Entry:
    """A figure, a table, or a figure with its numbers.

    Attributes:
        name: the file's name without ending.
        image: the PNG as a data URI, or None.
        width, height: of the image on a screen.
        table: the CSV, or None.
        files: names of all files of it in the folder.
    """

    name: str
    image: str | None
    width: int
    height: int
    table: Table | None
    files: list[str]

    @property
    def title(self) -> str:
        text = self.name.replace("_", " ")
        return text[0].upper() + text[1:]


def write_report(preset: str = "quick", output: str | Path | None = None) -> Path:
    """Write the page of a preset.

    Args:
        preset: a name of `presets.PRESETS`.
        output: the file; None: `figures/PRESET/report.html`.

    Returns:
        The file.

    Raises:
        UserError: unknown preset, nothing computed for it, or the file cannot be written.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    folder = paths.figures_dir(preset)
    names = {path.stem for ending in ("csv", "png") for path in folder.glob(f"*.{ending}")}
    if not names:
        raise UserError(
            f"there are no tables or figures in {paths.shown(folder)}/; "
            f"run `fedobp reproduce --preset {preset}` first"
        )
    page = render(preset, folder, names)
    path = paths.expanded(output, "--output") if output is not None else folder / "report.html"
    try:
        write(path, lambda file: file.write(page.encode()))
    except OSError as error:
        raise UserError(f"cannot write {paths.shown(path)}: {error.strerror}") from error
    return path


def render(preset: str, folder: Path, names: Iterable[str]) -> str:
    """The page as text, from the files of these names and from `sources.json`."""
    chapters, left = outline(find_notebooks(), names)
    shown = [chapter for chapter in chapters if chapter.files]
    behind = figure_sources.read(folder).of(chapter.number for chapter in shown)
    for name in behind.changed(folder):
        told = f"{paths.shown(folder / name)} is not as `fedobp reproduce` wrote it"
        print(f"warning: {told}", file=sys.stderr)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = (files(__package__) / "page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        preset=preset,
        purpose=PRESETS[preset].purpose,
        chapters=shown,
        missing=[chapter for chapter in chapters if not chapter.files],
        shows={e.notebook: shows(e) for e in EXPERIMENTS},
        left=left,
        entries={name: read_entry(folder, name) for name in names},
        compared=comparisons(folder),
        deviations=DEVIATIONS,
        settings=formatted(figure_sources.settings(behind), limit=None),
        provenance=formatted(figure_sources.provenance(behind), limit=None),
        drawings=formatted(figure_sources.drawings(behind), limit=None),
        data=formatted(figure_sources.fingerprints(behind), limit=None),
        runs=len(behind.runs),
        hours=sum(run.seconds for run in behind.runs.values()) / 3600,
        html=to_html,
    )


def comparisons(folder: Path) -> list[tuple[str, Table]]:
    """The published tables of which something was run, cell by cell beside ours."""
    found = []
    for title, name in COMPARED:
        if (folder / f"{name}.csv").is_file():
            frame = _read_csv(folder / f"{name}.csv").fillna({"setting": ""})
            if "verdict" not in frame:
                raise _unusable(folder / f"{name}.csv")
            if (frame["verdict"] != "not run").any():
                found.append((title, formatted(readable_comparison(frame), limit=None)))
    return found


def shows(experiment: Experiment) -> str:
    """What of the paper an experiment makes, such as `Tables 1 and 6`."""
    parts = []
    for kind, numbers in (("Table", experiment.tables), ("Figure", experiment.figures)):
        if numbers:
            *most, last = map(str, sorted(numbers))
            ending = f"s {', '.join(most)} and {last}" if most else f" {last}"
            parts.append(kind + ending)
    return ", ".join(parts)


def read_entry(folder: Path, name: str) -> Entry:
    """The files NAME.* of a folder."""
    found = {
        end: folder / f"{name}.{end}"
        for end in ("png", "pdf", "csv")
        if (folder / f"{name}.{end}").is_file()
    }
    image, width, height = None, 0, 0
    if "png" in found:
        content = found["png"].read_bytes()
        if not content.endswith(PNG_END):
            raise _unusable(found["png"])
        width, height = (round(n / DPI) for n in struct.unpack(">II", content[16:24]))
        image = "data:image/png;base64," + base64.b64encode(content).decode()
    table = None
    if "csv" in found:
        # An identifier of digits alone is still a name.
        table = formatted(_read_csv(found["csv"], dtype={"run_id": str}))
    return Entry(name, image, width, height, table, [path.name for path in found.values()])


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, **options)
    except (OSError, ValueError) as error:  # empty, torn, or no text
        raise _unusable(path) from error


def _unusable(path: Path) -> UserError:
    return UserError(
        f"{paths.shown(path)} cannot be read; delete it and run `fedobp reproduce` again"
    )


def formatted(frame: pd.DataFrame, limit: int | None = LONG) -> Table:
    """A frame for people: empty columns dropped, numbers rounded by column.

    Args:
        frame: any.
        limit: a longer frame keeps its first `FIRST` rows; None: all are kept.
    """
    total = len(frame)
    frame = frame.dropna(axis="columns", how="all") if total else frame
    numeric = [
        pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
        for kind in frame.dtypes
    ]
    cells = [
        _numbers(str(name), frame[name]) if number else [_word(value) for value in frame[name]]
        for name, number in zip(frame.columns, numeric, strict=True)
    ]
    rows = [list(row) for row in zip(*cells, strict=True)]
    if limit is not None and total > limit:
        rows = rows[:FIRST]
    return Table([(str(n), k) for n, k in zip(frame.columns, numeric, strict=True)], rows, total)


def _word(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return "–" if pd.isna(value) else str(value)


def _numbers(name: str, column: pd.Series) -> list[str]:
    values = column.to_numpy(dtype=float, na_value=np.nan)
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    whole = bool((sizes == np.round(sizes)).all())
    # Two decimals suit percentages; they would spoil quantiles and scores.
    fine = len(sizes) and (name in ("quantile", "alpha") or sizes.min() < 0.005 or sizes.max() <= 1)

    def text(value: float) -> str:
        if np.isnan(value):
            return "–"
        if whole or (fine and value == round(value)):
            return f"{value:,.0f}"
        if fine:
            return f"{value:.3g}" if abs(value) < 0.01 else f"{value:.6g}"
        return f"{value:,.2f}"

    return [text(value) for value in values]
