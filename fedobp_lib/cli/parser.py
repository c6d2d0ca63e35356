"""What can be typed after `fedobp`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from .. import paths
from ..errors import UserError
from . import commands, costs_command, federate_command, runs_commands, sweep_command

PRESET_HELP = "smoke, quick (default), paper, logged, printed or round100"

BANK_HELP = "where clients' rows are kept: auto (by their size), device, host or disk"

RUNS_DIR_HELP = "folder of all runs (default: runs/)"

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
    "precision": "fp32, tf32 (GPU), bf16, or auto: bf16 where the device has it, else fp32",
    "seed": "seed of initial weights, cohorts and batch orders",
    "protocol": "released (what the authors ran) or text (what the paper says)",
    "test_share": "share of each client's data used for testing (default: the protocol's)",
    "min_samples": "smallest number of samples of a client",
    "pixels": "benchmark or data: whose pixel mean and std (default: the protocol's)",
    "partition": "partition file (.npz) to use instead of a draw",
    "partition_seed": "seed of the Dirichlet draw",
    "eval_every": "test all clients every so many rounds (default: a quarter of them)",
    "eval_after": "final, always or never: test all clients after fine-tuning too",
    "eval_cohort": "test the clients of a round every so many rounds (default: in each)",
    "aggregator": "mean, median, trimmed[:SHARE] or clipping[:RADIUS]: of clients' models",
    "byzantine": "KIND:SHARE[:STRENGTH], clients that do harm: sign_flip, noise, label_flip",
    "delays": "the most rounds after which what a client sends arrives",
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
        line = " ".join(message.split())  # what was typed may have lines of its own
        print(f"fedobp: {line} (see `{self.prog} --help`)", file=sys.stderr)
        raise SystemExit(2)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fedobp",
        description="Reproduction kit for FedOBP: Federated Optimal Brain Personalization.",
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    run = subcommands.add_parser("run", help="one run of one method")
    _add_run_options(run)
    run.set_defaults(action=commands.run)

    federate = subcommands.add_parser("federate", help="one run by a server and client processes")
    _add_config_options(federate)
    federate.add_argument(
        "--timeout", type=float, default=600.0, metavar="S",
        help="seconds a client has for an answer; who is later is left out (default: 600)",
    )  # fmt: skip
    federate.add_argument("--json", action="store_true", help="print one JSON object")
    federate.add_argument("--runs-dir", type=_path, help=RUNS_DIR_HELP)
    federate.set_defaults(action=federate_command.federate)

    sweep = subcommands.add_parser("sweep", help="many runs, in one process or several")
    _add_sweep_options(sweep)
    sweep.set_defaults(action=sweep_command.sweep)

    reproduce = subcommands.add_parser("reproduce", help="execute the notebooks, draw the figures")
    reproduce.add_argument("--preset", default="quick", help=PRESET_HELP)
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
    reproduce.add_argument("--bank", default="auto", help=BANK_HELP)
    reproduce.add_argument(
        "--source", default="ours",
        help="ours (default), or logged: draw what the paper's authors logged, in figures/authors/",
    )  # fmt: skip
    reproduce.add_argument(
        "--redraw", action="store_true", help="execute notebooks again that are up to date"
    )
    reproduce.set_defaults(action=commands.reproduce)

    compare = subcommands.add_parser("compare", help="finished runs beside the published numbers")
    compare.add_argument("--preset", default="quick", help=PRESET_HELP)
    compare.add_argument("--table", nargs="+", type=int, metavar="N", help="1, 6, 7, 8")
    compare.add_argument(
        "--with", dest="against", default="printed", choices=("printed", "logged"),
        help="the printed tables (default), or what the authors logged at the same round",
    )  # fmt: skip
    compare.add_argument("--csv", action="store_true", help="print all columns as CSV")
    _add_grid_options(compare)
    compare.set_defaults(action=commands.compare)

    findings = subcommands.add_parser("findings", help="what the authors' logs say of the paper")
    findings.set_defaults(action=commands.findings)

    costs = subcommands.add_parser("costs", help="FLOPs, bytes and memory of a round, untrained")
    for name, parse, text, _ in _run_fields():
        if name in costs_command.FIELDS:
            option = f"--{name.replace('_', '-')}"
            costs.add_argument(option, nargs="+", type=parse, metavar=name[0].upper(), help=text)
    costs.add_argument(
        "--samples", type=int, metavar="N",
        help="training samples of a client (default: the mean; the data set must be here)",
    )  # fmt: skip
    costs.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="hyperparameters of the methods; a name may come several times",
    )  # fmt: skip
    costs.add_argument("--json", action="store_true", help="print all numbers as JSON")
    costs.add_argument("--csv", action="store_true", help="print all numbers as CSV")
    costs.set_defaults(action=costs_command.costs)

    report = subcommands.add_parser("report", help="one HTML page with all tables and figures")
    report.add_argument("--preset", default="quick", help=PRESET_HELP)
    report.add_argument(
        "--output", type=_path, metavar="FILE", help="default: figures/PRESET/report.html"
    )
    report.set_defaults(action=commands.report)

    data = subcommands.add_parser("data", help="list and fetch data sets")
    data_commands = data.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    listing = data_commands.add_parser("list", help="the data sets and which are here")
    listing.set_defaults(action=commands.data_list)
    fetch = data_commands.add_parser("fetch", help="download data sets")
    fetch.add_argument("names", nargs="+", metavar="NAME")
    fetch.add_argument("--force", action="store_true", help="also if the file is there")
    fetch.set_defaults(action=commands.data_fetch)

    methods = subcommands.add_parser("methods", help="the methods and their settings")
    methods.set_defaults(action=commands.methods)

    runs = subcommands.add_parser("runs", help="look after runs on disk")
    _add_runs_commands(runs.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser))
    run.add_argument("--runs-dir", type=_path, help=RUNS_DIR_HELP)
    return parser


def _add_runs_commands(runs: argparse._SubParsersAction) -> None:
    chosen = argparse.ArgumentParser(add_help=False)
    for name, kind in {"method": str, "dataset": str, "alpha": float, "seed": int}.items():
        chosen.add_argument(
            f"--{name}", nargs="+", type=kind, metavar=name[0].upper(), help=f"only of this {name}"
        )
    chosen.add_argument(
        "--state", nargs="+", metavar="S", help="only done, partial, diverged or damaged ones"
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON")
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--runs-dir", type=_path, help=RUNS_DIR_HELP)

    listing = runs.add_parser("list", help="all runs", parents=[chosen, as_json, where])
    listing.set_defaults(action=runs_commands.list_)
    show = runs.add_parser("show", help="one run", parents=[as_json, where])
    show.add_argument("run", metavar="ID", help="its id, or the beginning of it")
    show.set_defaults(action=runs_commands.show)
    diff = runs.add_parser("diff", help="how two runs differ", parents=[as_json, where])
    diff.add_argument("run", nargs=2, metavar="ID", help="their ids, or the beginnings of them")
    diff.set_defaults(action=runs_commands.diff)
    verify = runs.add_parser(
        "verify", help="whether runs are as they were written", parents=[chosen, as_json, where]
    )
    verify.set_defaults(action=runs_commands.verify)
    collect = runs.add_parser("gc", help="remove what nobody needs", parents=[as_json, where])
    collect.add_argument("--partial", action="store_true", help="also runs that are not finished")
    collect.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    collect.set_defaults(action=runs_commands.collect)
    export = runs.add_parser(
        "export", help="finished runs as one archive", parents=[chosen, as_json, where]
    )
    export.add_argument("file", type=_path, metavar="FILE", help="for instance runs.tar.gz")
    export.set_defaults(action=runs_commands.export)
    take_in = runs.add_parser(
        "import", help="take in the runs of an archive", parents=[as_json, where]
    )
    take_in.add_argument("file", type=_path, metavar="FILE")
    take_in.set_defaults(action=runs_commands.import_)


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


def _add_sweep_options(parser: argparse.ArgumentParser) -> None:
    for name, parse, text, _ in _run_fields():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, nargs="+", type=parse, metavar=name[0].upper(), help=text)
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="hyperparameters of the methods; a name may come several times",
    )  # fmt: skip
    parser.add_argument(
        "--file", type=_path, metavar="FILE", help="a TOML file that says which runs"
    )
    parser.add_argument(
        "--table", nargs="+", type=int, metavar="N", help="the runs of tables of the paper"
    )
    parser.add_argument(
        "--figure", nargs="+", type=int, metavar="N", help="the runs of figures of the paper"
    )
    parser.add_argument("--preset", default="quick", help=f"of tables and figures: {PRESET_HELP}")
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what is missing and how long it takes"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--bank", default="auto", help=BANK_HELP)
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="processes (default: one a GPU, or one for every eight cores); with --engine ray: "
        "packs at once (default: all that there is room for)",
    )  # fmt: skip
    parser.add_argument(
        "--pack", type=int, metavar="N", help="runs in one batch (default: by a GPU's memory)"
    )
    parser.add_argument(
        "--engine", default="local", metavar="E",
        help="local (default), or ray: the Ray cluster at RAY_ADDRESS, else this machine as one",
    )  # fmt: skip
    parser.add_argument(
        "--cpus-per-pack", type=int, metavar="N", help="ray: CPUs of a pack (default: 1)"
    )
    parser.add_argument(
        "--gpus-per-pack", type=float, metavar="X",
        help="ray: GPUs of a pack, such as 0.5 (default: 1 where the cluster has any)",
    )  # fmt: skip
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="only the I-th of N parts, for batch systems"
    )


def _path(text: str) -> str:
    """A path with its `~` replaced, which a shell leaves in `--option=~/folder`."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    try:
        return str(paths.expanded(text, "path"))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run_fields() -> list[tuple[str, Callable[[str], Any], str, Any]]:
    """Name, type, help and default of each field of a run that can be given by name."""
    from ..config import RunConfig

    known = {f.name: f for f in fields(RunConfig)}
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "flo": float, "path": _path}
    found: list[tuple[str, Callable[[str], Any], str, Any]] = []
    for name, text in RUN_FIELDS.items():
        kind = "path" if name == "partition" else str(known[name].type)[:3]
        found.append((name, kinds.get(kind, str), text, known[name].default))
    return found


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    for name, parse, text, default in _run_fields():
        text += "" if default is None else f" (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=parse, default=default, help=text)
    parser.add_argument("--pretrained", action="store_true", help="ImageNet weights (resnet18)")
    parser.add_argument(
        "--quantile", type=float, help="FedOBP's q (default: the paper's Table 5, else 0.9995)"
    )
    parser.add_argument(
        "--score", help="FedOBP's score: obp (default), gradient, fisher or saliency"
    )
    parser.add_argument("--scoring", help="who scores for FedOBP: client (default) or server")
    parser.add_argument(
        "--downlink", help="what a scoring server sends: merged (default) or sparse"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="hyperparameters of the method; see `fedobp methods`",
    )  # fmt: skip


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    _add_config_options(parser)
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--bank", default="auto", help=BANK_HELP)
    parser.add_argument("--backend", default="auto", help="auto (default), loop or batched")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
