"""The `fedobp` command. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from .errors import UserError

PRESET_HELP = "smoke, quick (default), paper, logged or printed"

RUN_FIELDS = {
    "method": "method to run; see `fedobp methods`",
    "dataset": "data set; see `fedobp data list`",
    "model": "avgcnn or resnet18",
    "alpha": "concentration of the Dirichlet split",
    "clients": "number of clients (default: 100; digits 20, a partition file's own)",
    "participation": "share of the clients in each round (default: 0.1; digits 0.2)",
    "rounds": "communication rounds (default: 400; digits 40)",
    "local_epochs": "passes over its data a client makes in a round",
    "batch_size": "samples in a step",
    "lr": "learning rate",
    "momentum": "momentum of SGD (default: the protocol's)",
    "precision": "fp32, tf32 (GPU) or bf16",
    "seed": "seed of initial weights, cohorts and batch orders",
    "protocol": "released (what the authors ran) or text (what the paper says)",
    "test_share": "share of each client's data used for testing (default: the protocol's)",
    "min_samples": "smallest number of samples of a client",
    "pixels": "benchmark or data: whose pixel mean and std (default: the protocol's)",
    "partition": "partition file (.npz) to use instead of a draw",
    "partition_seed": "seed of the Dirichlet draw",
    "eval_every": "test all clients every so many rounds (default: a quarter of them)",
    "eval_after": "final, always or never: test all clients after fine-tuning too",
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def parse_known_args(self, args=None, namespace=None):
        # Of a command's unknown options argparse would have the whole program complain.
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return namespace, unknown

    def error(self, message: str):
        print(f"fedobp: {message} (see `{self.prog} --help`)", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 (failed), 2 (bad input), 130 (Ctrl-C)."""
    try:
        options = build_parser().parse_args(arguments)
        return options.action(options) or 0
    except UserError as error:
        print(f"fedobp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "fedobp: stopped; finished runs are kept, the same command continues", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fedobp",
        description="Reproduction kit for FedOBP: Federated Optimal Brain Personalization.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    run = commands.add_parser("run", help="one run of one method")
    _add_run_options(run)
    run.set_defaults(action=_run)

    reproduce = commands.add_parser("reproduce", help="execute the notebooks, draw the figures")
    reproduce.add_argument(
        "--preset", default="quick", help="smoke, quick (default), paper, logged or printed"
    )
    reproduce.add_argument(
        "--table", nargs="+", type=int, action="extend", metavar="N", help="tables of the paper"
    )
    reproduce.add_argument(
        "--figure", nargs="+", type=int, action="extend", metavar="N", help="figures of the paper"
    )
    reproduce.add_argument("--only", nargs="+", metavar="NN", help="numbers of notebooks")
    reproduce.add_argument("--all", action="store_true", help="every notebook (default)")
    reproduce.add_argument(
        "--dry-run", action="store_true", help="only say what is missing and how long it takes"
    )
    _add_grid_options(reproduce)
    reproduce.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    reproduce.add_argument(
        "--source", default="ours",
        help="ours (default), or logged: draw what the paper's authors logged, in figures/authors/",
    )  # fmt: skip
    reproduce.add_argument(
        "--redraw", action="store_true", help="execute notebooks again that are up to date"
    )
    reproduce.set_defaults(action=_reproduce)

    compare = commands.add_parser("compare", help="finished runs beside the published numbers")
    compare.add_argument(
        "--preset", default="quick", help="smoke, quick (default), paper, logged or printed"
    )
    compare.add_argument("--table", nargs="+", type=int, metavar="N", help="1, 6, 7, 8")
    compare.add_argument(
        "--with", dest="against", default="printed", choices=("printed", "logged"),
        help="the printed tables (default), or what the authors logged at the same round",
    )  # fmt: skip
    compare.add_argument("--csv", action="store_true", help="print all columns as CSV")
    _add_grid_options(compare)
    compare.set_defaults(action=_compare)

    findings = commands.add_parser("findings", help="what the authors' logs say of the paper")
    findings.set_defaults(action=_findings)

    report = commands.add_parser("report", help="one HTML page with all tables and figures")
    report.add_argument(
        "--preset", default="quick", help="smoke, quick (default), paper, logged or printed"
    )
    report.add_argument("--output", metavar="FILE", help="default: figures/PRESET/report.html")
    report.set_defaults(action=_report)

    data = commands.add_parser("data", help="list and fetch data sets")
    data_commands = data.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    listing = data_commands.add_parser("list", help="the data sets and which are here")
    listing.set_defaults(action=_data_list)
    fetch = data_commands.add_parser("fetch", help="download data sets")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.add_argument("--force", action="store_true", help="also if the file is there")
    fetch.set_defaults(action=_data_fetch)

    methods = commands.add_parser("methods", help="the methods and their settings")
    methods.set_defaults(action=_methods)

    runs = commands.add_parser("runs", help="look at runs on disk")
    run_commands = runs.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    runs_list = run_commands.add_parser("list", help="all runs")
    runs_list.set_defaults(action=_runs_list)
    show = run_commands.add_parser("show", help="one run")
    show.add_argument("run", metavar="ID", help="its id, or the beginning of it")
    show.set_defaults(action=_runs_show)
    for command in (run, runs_list, show):
        command.add_argument("--runs-dir", help="folder of all runs (default: runs/)")
    return parser


def _add_grid_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--datasets", nargs="+", metavar="NAME", help="data sets (default: the preset's)"
    )
    parser.add_argument(
        "--alphas", nargs="+", type=float, metavar="A",
        help="concentrations of the Dirichlet split (default: the preset's)",
    )  # fmt: skip
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", help="methods (default: the preset's)"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="S",
        help="seeds by number, so that 1 is one seed (default: the preset's)",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="communication rounds (default: the preset's)"
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    from .config import RunConfig

    known = {f.name: f for f in fields(RunConfig)}
    for name, text in RUN_FIELDS.items():
        kind = str(known[name].type)
        parse = {"int": int, "flo": float}.get(kind[:3], str)
        default = known[name].default
        text += "" if default is None else f" (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=parse, default=default, help=text)
    parser.add_argument("--pretrained", action="store_true", help="ImageNet weights (resnet18)")
    parser.add_argument(
        "--quantile", type=float, help="FedOBP's q (default: the paper's Table 5, else 0.9995)"
    )
    parser.add_argument(
        "--score", help="FedOBP's score: obp (default), gradient, fisher or saliency"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="hyperparameters of the method; see `fedobp methods`",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--backend", default="auto", help="auto (default), loop or batched")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _run(options: argparse.Namespace) -> None:
    from .config import RunConfig
    from .runs.execution import run

    settings = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, got {text!r}")
        settings[name] = value
    for name in ("quantile", "score"):
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    values = {name: getattr(options, name) for name in (*RUN_FIELDS, "pretrained")}
    result = run(
        RunConfig(**values, settings=settings),
        device=options.device,
        backend=options.backend,
        directory=options.runs_dir,
        progress=True,
    )
    if options.json:
        print(json.dumps(_json(result)))
    else:
        _print_run(result)


def _json(result) -> dict:
    from . import paths

    keys = ("method", "dataset", "rounds", "seconds_total", "seconds_per_round",
            "seconds_evaluation", "final", "personalized_parameters")  # fmt: skip
    return {
        "run_id": result.run_id,
        "directory": paths.shown(result.directory),
        **{key: result.summary[key] for key in keys},
    }


def _print_run(result) -> None:
    from . import paths

    summary, config = result.summary, result.config
    made = summary["provenance"]
    print(
        f"{config.method} on {config.dataset}, alpha {config.alpha}, {config.clients} clients, "
        f"{config.rounds} rounds, seed {config.seed}, protocol {config.protocol}"
    )
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


def _reproduce(options: argparse.Namespace) -> int:
    from .report.reproduce import choose, reproduce

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
        from .runs.estimate import forecast, forecast_text
        from .terminal import folded

        print(folded("notebooks: " + ", ".join(path.stem for path in plan.notebooks)))
        print(forecast_text(forecast(plan.runs, options.device)))
        return 0

    from papermill import PapermillExecutionError

    try:
        reproduce(plan, options.device, options.redraw)
    except PapermillExecutionError as error:
        print(
            f"fedobp: cell {error.exec_count} failed: {error.ename}: {error.evalue}; "
            "the notebook in executed/ shows where",
            file=sys.stderr,
        )
        return 1
    return 0


def _compare(options: argparse.Namespace) -> None:
    from .results.compare import compare_tables
    from .results.comparison_text import comparison_text

    names = ("datasets", "alphas", "methods", "seeds", "rounds")
    given = {name: getattr(options, name) for name in names}
    if options.against == "logged":
        frame, text = _compare_logged(options, given)
    else:
        frame = compare_tables(options.preset, options.table, **given)
        text = comparison_text(frame)
    print(frame.to_csv(index=False, lineterminator="\n").rstrip() if options.csv else text)


def _compare_logged(options: argparse.Namespace, given: dict[str, Any]) -> tuple[Any, str]:
    from .results.compare_logged import compare_logged, logged_text
    from .runs.presets import grid
    from .runs.sweeps import finished

    if options.table:
        raise UserError("the logs are compared run by run, not table by table; leave out --table")
    frame = compare_logged(finished(grid(options.preset, **given)))
    return frame, logged_text(frame)


def _findings(options: argparse.Namespace) -> None:
    from .results.findings import findings_text

    print(findings_text(), end="")


def _report(options: argparse.Namespace) -> None:
    from . import paths
    from .report.page import write_report

    print(paths.shown(write_report(options.preset, options.output)))


def _data_list(options: argparse.Namespace) -> None:
    from .data.datasets import listing
    from .terminal import aligned

    table = listing().drop(columns="title").astype(object).fillna("-").astype(str)
    rows = [list(table.columns), *table.to_numpy().tolist()]
    left = [table.columns.get_loc(name) for name in ("name", "here", "note")]
    print("\n".join(aligned(rows, left)))


def _data_fetch(options: argparse.Namespace) -> None:
    from . import paths
    from .data.download import fetch

    for name in options.names:
        print(paths.shown(fetch(name, force=options.force)))


def _methods(options: argparse.Namespace) -> None:
    from .methods import METHODS
    from .terminal import folded

    for name, method in METHODS.items():
        print(folded(f"{name:<16}{method.title}: {method.source}", indent=16))
        for setting in fields(method.Settings):
            print(f"{'':<18}{setting.name} = {setting.default!r}")


def _runs_list(options: argparse.Namespace) -> None:
    from .runs.store import list_runs

    frame = list_runs(options.runs_dir)
    if frame.empty:
        print("no runs yet", file=sys.stderr)
    else:
        print(frame.to_string(index=False, float_format="%.2f", na_rep="-"))


def _runs_show(options: argparse.Namespace) -> None:
    from .runs.store import find_run

    result = find_run(options.run, options.runs_dir)
    _print_run(result)
    print(json.dumps(result.summary["provenance"], indent=2))


if __name__ == "__main__":
    sys.exit(main())
