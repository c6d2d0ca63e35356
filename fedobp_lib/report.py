"""`fedobp report`: all tables and figures of a preset as one HTML page.

The page needs nothing beside it and no network. It holds what is in `figures/PRESET/`, in the
order of the notebooks, with the settings and the provenance of the runs behind it.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from . import paths, storyline
from .compare import compare_accuracy, compare_normalizations, compare_resnet18, readable_comparison
from .config import RESULTS_VERSION, RunConfig
from .deviations import DEVIATIONS
from .errors import UserError, unknown
from .experiments import EXPERIMENTS, Experiment, accuracy_runs, normalization_runs, resnet18_runs
from .reproduce import find_notebooks
from .runs import RunResult, is_finished
from .sweeps import PRESETS

LONG, FIRST = 60, 20  # a table of more rows than LONG shows the FIRST, and is folded
DPI = 200 / 96  # pixels of a saved figure to one of the screen

SETTINGS = (
    "dataset", "alpha", "method", "seed", "rounds", "clients", "participation", "local_epochs",
    "batch_size", "lr", "momentum", "model", "pretrained", "protocol", "test_share", "min_samples",
    "pixels", "precision", "partition_seed",
)  # fmt: skip
MANY = 6  # of more values only the number is told

# Published tables, the runs that are compared with them, and how.
COMPARED = (
    ("Tables 1 and 6", accuracy_runs, compare_accuracy),
    ("Table 7", resnet18_runs, compare_resnet18),
    ("Table 8", normalization_runs, compare_normalizations),
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
        preset: a name of `sweeps.PRESETS`.
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
    path = Path(output).expanduser() if output is not None else folder / "report.html"
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {paths.shown(path)}: {error.strerror}") from error
    return path


def render(preset: str, folder: Path, names: Iterable[str]) -> str:
    """The page as text, from the files of these names and from the runs on disk."""
    chapters, left = storyline.outline(find_notebooks(), names)
    shown = [chapter for chapter in chapters if chapter.files]
    entries = {name: read_entry(folder, name) for name in names}
    runs = runs_behind(preset, shown, [entries[name] for name in sorted(names)])
    every = list({r.run_id: r for results in runs.values() for r in results}.values())
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = (files(__package__) / "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        preset=preset,
        purpose=PRESETS[preset].purpose,
        chapters=shown,
        missing=[chapter for chapter in chapters if not chapter.files],
        shows={e.notebook: shows(e) for e in EXPERIMENTS},
        left=left,
        entries=entries,
        settings=formatted(settings(runs), limit=None) if every else None,
        compared=comparisons(preset, every),
        deviations=DEVIATIONS,
        provenance=formatted(provenance(every), limit=None),
        data=formatted(fingerprints(every), limit=None),
        runs=len(every),
        hours=sum(run.summary["seconds_total"] for run in every) / 3600,
        html=storyline.to_html,
    )


def comparisons(preset: str, results: Sequence[RunResult]) -> list[tuple[str, Table]]:
    """The published tables for which there are finished runs, cell by cell beside ours."""
    found = []
    for title, runs, compare in COMPARED:
        chosen = _of(runs(preset), results)
        if chosen:
            found.append((title, formatted(readable_comparison(compare(chosen)), limit=None)))
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
        width, height = (round(n / DPI) for n in struct.unpack(">II", content[16:24]))
        image = "data:image/png;base64," + base64.b64encode(content).decode()
    table = None
    if "csv" in found:
        # An identifier of digits alone is still a name.
        table = formatted(pd.read_csv(found["csv"], dtype={"run_id": str}))
    return Entry(name, image, width, height, table, [path.name for path in found.values()])


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


def runs_behind(
    preset: str, chapters: Sequence[storyline.Chapter], entries: Sequence[Entry]
) -> dict[str, list[RunResult]]:
    """The finished runs behind each chapter, and under `other` more that the tables name."""
    done = [
        RunResult(folder)
        for folder in sorted(paths.runs_dir().glob("*/"))
        if is_finished(folder) and _version(folder) == RESULTS_VERSION
    ]
    named = {
        row[column]
        for entry in entries
        if entry.table and not entry.image
        for column, (name, _) in enumerate(entry.table.columns)
        if name == "run_id"
        for row in entry.table.rows
    }
    numbers = {chapter.number for chapter in chapters}
    behind = {
        experiment.notebook: _of(experiment.runs(preset), done)
        for experiment in EXPERIMENTS
        if experiment.runs and experiment.notebook in numbers
    }
    known = {run.run_id for results in behind.values() for run in results}
    behind["other"] = [r for r in done if r.run_id in named - known]
    return {name: results for name, results in behind.items() if results}


def _of(configs: Sequence[RunConfig], results: Sequence[RunResult]) -> list[RunResult]:
    """Those of the results that are of one of the configurations."""
    wanted = {_key(config.resolved()) for config in configs}
    return [result for result in results if _key(result.config) in wanted]


def _key(config: RunConfig) -> str:
    return json.dumps(asdict(config), sort_keys=True)


def _version(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text()).get("results_version")


def settings(runs: dict[str, list[RunResult]]) -> pd.DataFrame:
    """A row a setting, a column an experiment: the values that its finished runs have."""
    columns = {}
    for notebook, results in runs.items():
        column = {"finished runs": str(len(results))}
        for name in SETTINGS:
            column[name.replace("_", " ")] = _values([getattr(r.config, name) for r in results])
        columns["other runs" if notebook == "other" else f"notebook {notebook}"] = column
    return pd.DataFrame(columns).rename_axis("setting").reset_index()


def _values(values: Sequence[Any]) -> str:
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if len(distinct) > MANY:
        return f"{len(distinct)} of them"
    return ", ".join(_word(v) if isinstance(v, bool | str) else f"{v:g}" for v in distinct)


def provenance(results: Sequence[RunResult]) -> pd.DataFrame:
    """A row for every code version and machine that computed some of the runs."""
    rows = []
    for result in results:
        made = result.summary["provenance"]
        commit = (made["commit"] or "unknown")[:12]
        changed = " + uncommitted changes" if made["uncommitted_changes"] else ""
        rows.append(
            {
                "commit": commit + changed,
                "device": made["device"],
                "threads": made["threads"],
                "python": made["python"],
                "torch": made["torch"],
                "numpy": made["numpy"],
                "system": made["system"],
                "finished": made["finished"],
                "seconds": result.summary["seconds_total"],
            }
        )
    columns = ["commit", "device", "threads", "python", "torch", "numpy", "system"]
    frame = pd.DataFrame(rows, columns=[*columns, "finished", "seconds"])
    return (
        frame.groupby(columns, sort=False)
        .agg(
            runs=("seconds", "count"),
            first=("finished", "min"),
            last=("finished", "max"),
            compute_minutes=("seconds", lambda seconds: seconds.sum() / 60),
        )
        .reset_index()
    )


def fingerprints(results: Sequence[RunResult]) -> pd.DataFrame:
    """Which content each data set of the runs had: data set, fingerprint, runs."""
    rows = []
    for result in results:
        known = json.loads((result.directory / "config.json").read_text())
        rows.append([result.config.dataset, known["data"]])
    frame = pd.DataFrame(rows, columns=["data set", "fingerprint"])
    return frame.value_counts(sort=False).rename("runs").reset_index()
