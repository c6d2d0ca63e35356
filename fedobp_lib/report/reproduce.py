"""`fedobp reproduce`: compute the runs, then execute the notebooks with papermill.

The runs of all chosen notebooks come first, each once, in this process, under one progress bar
that knows the time left; the notebooks then find them finished and only draw. A notebook executed
by itself computes the runs it needs in the same way.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from .. import paths
from ..config import RunConfig
from ..errors import UserError
from ..results.logged import folder_of
from ..runs.bank_choice import check_bank
from ..runs.experiments import EXPERIMENTS, find_experiment, parameters_of
from ..runs.files import check_writable
from ..runs.presets import KINDS, PRESETS, grid, listed
from ..runs.sweeps import missing, run_all, run_ids
from ..terminal import folded
from ..training.backends import choose_device
from . import figure_sources, freshness


@dataclass(frozen=True)
class Plan:
    """What a call of `fedobp reproduce` does.

    Attributes:
        preset: a name of `presets.PRESETS`.
        source: `ours`, or `logged`: what the paper's authors logged, nothing is computed.
        notebooks: to execute, in order, with datasets, alphas, methods, seeds and rounds where
            they are not the preset's.
        runs: all that the notebooks need, each once, data set by data set.
        runs_of: the same, notebook by notebook.
    """

    preset: str
    source: str
    notebooks: dict[Path, dict[str, Any]]
    runs: list[RunConfig]
    runs_of: dict[Path, list[RunConfig]]


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
    only = [number.zfill(2) for number in only or ()]
    for number in only:
        if number not in found:
            raise UserError(f"no notebook {number!r}; there are {', '.join(found)}")
    return [path for number, path in found.items() if not only or number in only]


def choose(
    preset: str = "quick",
    tables: Sequence[int] | None = None,
    figures: Sequence[int] | None = None,
    only: Sequence[str] | None = None,
    source: str = "ours",
    **parameters: Any,
) -> Plan:
    """The notebooks and runs behind tables and figures of the paper.

    Several tables and figures of one notebook are executed together; their data sets and alphas
    are those of `experiments.parameters_of`.

    Args:
        preset: a name of `presets.PRESETS`.
        tables, figures: numbers, as the paper counts.
        only: numbers of notebooks, executed whole; nothing named at all: every notebook.
        source: `ours`, or `logged`: only notebooks that can show the authors' logs.
        parameters: datasets, alphas, methods, seeds, rounds; None: the table's or the preset's.

    Raises:
        UserError: unknown preset, method, notebook, table or figure.
    """
    given: dict[str, Any] = {
        name: listed(value, name) if name in KINDS else value
        for name, value in parameters.items()
        if value is not None
    }
    for config in grid(preset, **given)[:1]:  # checks names, and the sizes that all share
        config.resolved()
    folder_of(source, preset)
    if source == "logged":
        if given or preset != "quick":
            raise UserError(
                "the authors' logs are drawn whole: leave out --preset, --datasets, --alphas, "
                "--methods, --seeds and --rounds"
            )
        preset = "paper"  # the logs are of the paper's data sets
    named: dict[str, list[dict[str, Any]]] = {number.zfill(2): [] for number in only or ()}
    whole = set(named)
    for kind, numbers in (("table", tables), ("figure", figures)):
        for experiment, part in (find_experiment(kind, number) for number in numbers or ()):
            named.setdefault(experiment.notebook, []).append(part)
    experiments = {experiment.notebook: experiment for experiment in EXPERIMENTS}
    notebooks, runs_of = {}, {}
    for path in find_notebooks(list(named)):
        number = path.name[:2]
        if source == "logged" and not shows_logs(path):
            if number in named:
                raise UserError(f"notebook {number} has nothing to show of the authors' logs")
            continue
        parts = [] if number in whole or source == "logged" else named.get(number, [])
        notebooks[path] = parameters_of(parts, preset, given)
        # A notebook that somebody has added is no experiment of the paper.
        runs = experiments[number].runs if number in experiments else None
        if runs is not None and source == "ours":
            runs_of[path] = runs(preset, **notebooks[path])
    return Plan(preset, source, notebooks, each_once(list(chain(*runs_of.values()))), runs_of)


def shows_logs(notebook: Path) -> bool:
    """Whether a notebook has the parameter SOURCE."""
    return '"SOURCE = ' in notebook.read_text(encoding="utf-8")


def each_once(configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Runs without repetition, those of a data set together so that it is read once."""
    found = {repr(config.resolved()): config for config in configs}
    order = {name: place for place, name in enumerate(dict.fromkeys(c.dataset for c in configs))}
    return sorted(found.values(), key=lambda config: order[config.dataset])


def reproduce(plan: Plan, device: str = "auto", redraw: bool = False, bank: str = "auto") -> Path:
    """Compute what is missing and execute the notebooks; figures go to `figures/PRESET/`.

    A notebook is left alone where neither it, its parameters and runs, the library nor the files
    that it wrote have changed since it was executed.

    Args:
        plan: as `choose` makes it.
        device: `auto`, `cpu` or `cuda`.
        redraw: execute all notebooks.
        bank: where the rows of clients are kept, see `execution.run`.

    Returns:
        The folder of the executed notebooks.

    Raises:
        UserError: unknown data set or device, or a folder that cannot be written.
        papermill.PapermillExecutionError: a cell failed; the executed notebook shows where.
    """
    check_bank(bank)
    where = choose_device(device)  # a wrong name is told now, not by a notebook
    if plan.source == "logged":
        _say("what the paper's authors logged; nothing is trained")
    folder = folder_of(plan.source, plan.preset)
    figures, executed = paths.figures_dir(folder), paths.executed_dir(folder)
    for kept in (figures, executed):
        check_writable(kept)  # before hours of computing
    if plan.runs:
        todo = missing(plan.runs)
        _say(_title(plan))
        _say(f"{len(plan.runs)} runs: {len(plan.runs) - len(todo)} finished, "
             f"{len(todo)} to compute")  # fmt: skip
        run_all(todo, device, bank=bank)

    for number, (path, chosen) in enumerate(plan.notebooks.items(), 1):
        values = {name.upper(): _plain(value) for name, value in chosen.items()}
        parameters = {"PRESET": plan.preset, "DEVICE": device} | values
        if plan.source != "ours":
            parameters["SOURCE"] = plan.source
        ids = run_ids(plan.runs_of.get(path, []))
        mark = freshness.stamp(path, parameters, ids, paths.data_dir())
        current = not redraw and freshness.is_current(executed / path.name, mark, figures)
        told = "; up to date" if current else ""
        _say(f"notebook {number}/{len(plan.notebooks)}: {path.name}{told}")
        try:
            if not current:
                before = freshness.times(figures)
                _execute(path, executed / path.name, parameters)
                files = freshness.written_since(figures, before)
                freshness.mark(executed / path.name, mark, files)
            figure_sources.record(
                figures, path.name[:2], ids, None if current else where,
                freshness.files_of(executed / path.name),
            )  # fmt: skip
        except OSError as error:  # no room left
            where_to = paths.shown(Path(error.filename or executed / path.name))
            raise UserError(f"cannot write {where_to}: {error.strerror or error}") from error
    _say(f"figures and tables: {paths.shown(figures)}/")
    _say(f"executed notebooks: {paths.shown(executed)}/")
    return executed


def _title(plan: Plan) -> str:
    """The preset, and what it is for or how it was changed."""
    changed = {
        f"{name} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}": None
        for chosen in plan.notebooks.values()
        for name, value in chosen.items()
    }
    if changed:
        return folded(f"preset {plan.preset}, but {', '.join(changed)}")
    return f"preset {plan.preset}: {PRESETS[plan.preset].purpose}"


def _execute(path: Path, out: Path, parameters: dict[str, Any]) -> None:
    import papermill

    from .kernel import kernel_manager

    try:
        papermill.execute_notebook(
            # Papermill writes these into the notebook, where not every folder's name can stand.
            os.path.relpath(path),
            os.path.relpath(out),
            parameters=parameters,
            kernel_name="python3",
            kernel_manager_class=kernel_manager(),
            cwd=str(paths.project_root()),
            progress_bar={"file": sys.stderr, "ncols": 79} if sys.stderr.isatty() else False,
            # Of outputs that are on their way; the default of 4 s fails on a busy machine.
            iopub_timeout=120,
            # All outputs are here; a kernel with PyTorch takes a second to end by itself.
            shutdown_kernel="immediate",
            # Kernels warn at every start that they talk over the loopback interface.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    except OSError:
        out.unlink(missing_ok=True)  # it may be torn
        raise


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _say(message: str) -> None:
    print(message, file=sys.stderr)
