"""What each command does. Modules are imported when they are needed, so that help comes at once."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..config import RunConfig


def config_of(options: argparse.Namespace) -> RunConfig:
    """The run that the options describe.

    Raises:
        UserError: they do not.
    """
    from ..config import RunConfig

    settings = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, got {text!r}")
        settings[name] = value
    for name in ("quantile", "score", "scoring", "downlink"):
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    names = [field.name for field in fields(RunConfig) if field.name != "settings"]
    return RunConfig(**{name: getattr(options, name) for name in names}, settings=settings)


def run(options: argparse.Namespace) -> int:
    from ..runs.execution import run as compute
    from ..runs.preemption import watching

    with watching():
        result = compute(
            config_of(options),
            device=options.device,
            backend=options.backend,
            bank=options.bank,
            directory=options.runs_dir,
            progress=True,
        )
    if options.json:
        print(json.dumps(as_json(result)))
    else:
        print_run(result)
    return 1 if result.diverged else 0


def divergence(result) -> str:
    stop = result.diverged
    client = "" if stop["client"] is None else f", client {stop['client']}"
    return f"diverged in round {stop['round']}{client}: {stop['what']}"


def as_json(result) -> dict:
    from .. import paths

    keys = ("method", "dataset", "rounds", "diverged", "seconds_total", "seconds_per_round",
            "seconds_evaluation", "final", "personalized_parameters")  # fmt: skip
    return {
        "run_id": result.run_id,
        "directory": paths.shown(result.directory),
        **{key: result.summary.get(key) for key in keys},
    }


def print_run(result) -> None:
    from .. import paths

    summary, config = result.summary, result.config
    made = summary["provenance"]
    print(
        f"{config.method} on {config.dataset}, alpha {config.alpha}, {config.clients} clients, "
        f"{config.rounds} rounds, seed {config.seed}, protocol {config.protocol}"
    )
    if result.diverged:
        print(divergence(result))
    else:
        print("accuracy over all clients, last round   pooled   mean over clients")
    for stage, numbers in summary["final"].items():
        print(
            f"  {stage + ' local training':<38}{numbers['pooled']:6.2f} %"
            f"{numbers['client_mean']:12.2f} %"
        )
    print(
        f"personalized parameters per client: {summary['personalized_parameters']:,.1f} "
        f"of {summary['parameters']:,}"
    )
    print(
        f"time: {summary['seconds_total']:.1f} s ({summary['seconds_per_round']:.3f} s a round, "
        f"{summary['seconds_evaluation']:.1f} s evaluation)"
    )
    print(f"device: {made['device']}")
    print(f"files: {paths.shown(result.directory)}/")


def reproduce(options: argparse.Namespace) -> int:
    from ..report.reproduce import choose
    from ..report.reproduce import reproduce as execute

    if options.all and (options.table or options.figure or options.only):
        raise UserError("--all is everything; name no table, figure or notebook beside it")
    plan = choose(
        options.preset,
        options.table,
        options.figure,
        options.only,
        options.source,
        datasets=options.datasets,
        alphas=options.alphas,
        methods=options.methods,
        seeds=options.seeds,
        rounds=options.rounds,
    )
    if options.dry_run and plan.source == "logged":
        print("the authors' logs; nothing is trained")
        return 0
    if options.dry_run:
        from ..runs.estimate import forecast, forecast_text
        from ..terminal import folded

        text = forecast_text(forecast(plan.runs, options.device))
        print(folded("notebooks: " + ", ".join(path.stem for path in plan.notebooks)))
        print(text)
        return 0

    from papermill import PapermillExecutionError

    try:
        execute(plan, options.device, options.redraw, options.bank)
    except PapermillExecutionError as error:
        if error.ename == UserError.__name__:
            raise UserError(error.evalue) from error
        print(
            f"fedobp: cell {error.exec_count} failed: {error.ename}: {error.evalue}; "
            "the executed notebook shows where",
            file=sys.stderr,
        )
        return 1
    return 0


def compare(options: argparse.Namespace) -> None:
    from ..results.compare import compare_tables
    from ..results.comparison_text import comparison_text

    names = ("datasets", "alphas", "methods", "seeds", "rounds")
    given = {name: getattr(options, name) for name in names}
    if options.against == "logged":
        frame, text = _compare_logged(options, given)
    else:
        frame = compare_tables(options.preset, options.table, **given)
        text = comparison_text(frame)
    print(frame.to_csv(index=False, lineterminator="\n").rstrip() if options.csv else text)


def _compare_logged(options: argparse.Namespace, given: dict[str, Any]) -> tuple[Any, str]:
    from ..results.compare_logged import compare_logged, logged_text
    from ..runs.presets import grid
    from ..runs.sweeps import finished

    if options.table:
        raise UserError("the logs are compared run by run, not table by table; leave out --table")
    frame = compare_logged(finished(grid(options.preset, **given)))
    return frame, logged_text(frame)


def findings(options: argparse.Namespace) -> None:
    from ..results.findings import findings_text

    print(findings_text(), end="")


def report(options: argparse.Namespace) -> None:
    from .. import paths
    from ..report.page import write_report

    print(paths.shown(write_report(options.preset, options.output)))


def data_list(options: argparse.Namespace) -> None:
    from ..data.datasets import listing
    from ..terminal import aligned

    table = listing().drop(columns="title").astype(object).fillna("-").astype(str)
    rows = [list(table.columns), *table.to_numpy().tolist()]
    left = [table.columns.get_loc(name) for name in ("name", "here", "note")]
    print("\n".join(aligned(rows, left)))


def data_fetch(options: argparse.Namespace) -> None:
    from .. import paths
    from ..data.download import fetch

    for name in options.names:
        print(paths.shown(fetch(name, force=options.force)))


def methods(options: argparse.Namespace) -> None:
    from ..methods import METHODS
    from ..terminal import folded

    for name, method in METHODS.items():
        print(folded(f"{name:<16}{method.title}: {method.source}", indent=16))
        for setting in fields(method.Settings):
            print(f"{'':<18}{setting.name} = {setting.default!r}")
