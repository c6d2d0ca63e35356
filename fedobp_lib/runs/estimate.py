"""How long runs will take, judged from rounds that this machine has computed.

What a sample costs is taken from finished runs of the same method, data set, model and sizes on
the same device; else from other methods' runs; else from rounds of a few clients that are computed
now, in memory, or from such rounds of other methods. How many samples a run sees is known before
(`workload.py`). Runs that are packed on a GPU share their time, so there the sum is an upper bound.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import pandas as pd
import torch

from .. import paths
from ..config import ResolvedConfig, RunConfig
from ..data.datasets import is_here
from ..errors import UserError
from ..methods import METHODS, BankPlace
from ..simulation import simulate
from ..terminal import aligned, folded
from ..training.backends import choose_device
from .bank_choice import choose_bank
from .provenance import provenance
from .store import RunResult, folders, is_finished, load_data, run_id
from .workload import Workload, Workloads, round_work

SIZES = ("dataset", "model", "clients", "participation", "local_epochs", "batch_size",
         "precision", "test_share")  # fmt: skip
UNTRAINED = "majority-class"  # its rounds say nothing about those of others

FINISHED = "finished"
NOT_HERE = "data set not here"
SAME_METHOD = "finished runs of the same method"
OTHER_METHODS = "finished runs of other methods"
MEASURED = "a round of the same method, measured now"
MEASURED_OTHER = "rounds of other methods, measured now"

# After so long, methods that are not measured yet are judged by those that are.
MEASURE_SECONDS = 30.0

Known = dict[tuple[Any, ...], dict[str, list["Rate"]]]


@dataclass(frozen=True)
class Rate:
    """What a sample costs.

    Attributes:
        train: seconds of a round, or of fine-tuning, for each sample of `Workload.train`.
        test: seconds for each of `Workload.test`.
    """

    train: float
    test: float

    def seconds(self, work: Workload) -> float:
        """Time of a whole run."""
        return self.train * (work.train + work.tuned) + self.test * work.test

    @classmethod
    def of(cls, result: RunResult, work: Workload) -> Rate:
        """That of a finished run.

        Fine-tuning trains as rounds do, and in a run of a few rounds has more samples than they.
        """
        summary = result.summary
        rounds = summary["seconds_per_round"] * result.config.rounds
        # Earlier runs have not told their fine-tuning from their tests.
        tuning = summary.get("seconds_tuning", rounds * work.tuned / work.train)
        train = (rounds + tuning) / (work.train + work.tuned)
        return cls(train, max(summary["seconds_evaluation"] - tuning, 0.0) / work.test)

    @classmethod
    def mean(cls, rates: Sequence[Rate]) -> Rate:
        return cls(mean(rate.train for rate in rates), mean(rate.test for rate in rates))


def forecast(configs: Sequence[RunConfig], device: str = "auto") -> pd.DataFrame:
    """What is finished, and how long the rest will take. Computes no run and writes nothing.

    Args:
        configs: the runs, each once.
        device: `auto`, `cpu` or `cuda`.

    Returns:
        One row a run: dataset, model, alpha, method, rounds, settings (as text), seconds (0 if
        finished, NaN if unknown), basis (of the estimate, `FINISHED` or `NOT_HERE`).

    Raises:
        UserError: unknown data set or device.
    """
    where = choose_device(device)
    judge = _Judge(where)
    rows = []
    for config in (config.resolved() for config in configs):
        seconds, basis = judge(config)
        rows.append(
            {
                "dataset": config.dataset, "model": config.model, "alpha": config.alpha,
                "method": config.method, "rounds": config.rounds,
                "settings": str(config.settings), "seconds": seconds, "basis": basis,
            }
        )  # fmt: skip
    columns = ["dataset", "model", "alpha", "method", "rounds", "settings", "seconds", "basis"]
    return pd.DataFrame(rows, columns=columns)


def finished_rates(device: torch.device, work_of: Workloads) -> Known:
    """What samples cost in the finished runs of a device, by size and method.

    Args:
        device: of the runs.
        work_of: counts the samples.
    """
    here = provenance(device)
    known: Known = {}
    for folder in folders():
        if not is_finished(folder):
            continue
        result = RunResult(folder)
        made = result.summary["provenance"]
        alike = all(made.get(key) == here[key] for key in ("device", "threads"))
        alike = alike and made.get("backend") != "flower"  # whose rounds take other times
        if not alike or result.diverged:
            continue
        try:
            config = result.config
            rate = Rate.of(result, work_of(config)) if is_here(config.dataset) else None
        except UserError:
            continue  # data that are not known here, or another version of the kit
        if rate is not None:
            methods = known.setdefault(_sizes(config), {})
            methods.setdefault(config.method, []).append(rate)
    return known


def measure(config: ResolvedConfig, device: torch.device) -> Rate:
    """What a sample costs in a run, from a few rounds in memory.

    On a CPU they are of one client for each thread.
    """
    data, threads = load_data(config.dataset), _threads(device)
    few = min(1.0, threads / config.clients) if threads else config.participation
    # Random weights take as long as pretrained ones; nothing but cohorts is tested.
    short = replace(
        config, participation=few, local_epochs=1, pretrained=False, rounds=4, eval_every=4,
        eval_cohort=1,
    )  # fmt: skip
    # Rows in main memory take no more of it than the clients of these rounds need.
    kind = "device" if choose_bank("auto", config, device) == "device" else "host"
    simulation = simulate(short, data, device, place=BankPlace(kind))
    simulation.step()  # warms up
    costs, tests = [], []
    for epochs in (2, 3):  # with a single one, a method may leave something out
        simulation.trainer.settings = replace(simulation.trainer.settings, epochs=epochs)
        before = dict(simulation.seconds)
        simulation.step()
        train, test = (simulation.seconds[key] - before[key] for key in ("rounds", "tests"))
        work = round_work(short, simulation.data.partition, simulation.round, threads)
        costs.append(train / work.train)
        tests.append(test / work.test)
    epoch = max(costs[1] - costs[0], 0.0)
    return Rate(max(costs[0] + (config.local_epochs - 2) * epoch, 0.0), min(tests))


def forecast_text(frame: pd.DataFrame) -> str:
    """The forecast for people, in 80 columns."""
    todo = frame[frame["basis"] != FINISHED]
    lines = [f"{len(frame)} runs: {len(frame) - len(todo)} finished, {len(todo)} missing"]
    if todo.empty:
        return lines[0]
    table = [("data set", "model", "alpha", "rounds", "runs", "time", "methods")]
    for key, group in todo.groupby(["dataset", "model", "alpha", "rounds"], sort=False):
        dataset, model, alpha, rounds = key
        time = "unknown" if group["seconds"].isna().any() else duration(group["seconds"].sum())
        methods = ", ".join(_methods(group))
        if NOT_HERE in set(group["basis"]):
            methods = f"({NOT_HERE}) {methods}"
        table.append((dataset, model, f"{alpha:g}", str(rounds), str(len(group)), time, methods))
    lines += ["", *aligned(table, left=(0, 1)), ""]
    known = todo[todo["seconds"].notna()]
    if len(known):
        total = duration(known["seconds"].sum())
        lines.append(f"{len(known)} runs, one after another: about {total}, judged from")
        lines += [f"  {basis} ({n} runs)" for basis, n in Counter(known["basis"]).items()]
    absent = todo[todo["seconds"].isna()]
    if len(absent):
        names = " ".join(absent["dataset"].unique())
        lines.append(f"{len(absent)} runs not counted: {NOT_HERE}; fedobp data fetch {names}")
    return "\n".join(map(folded, lines))


def duration(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `3.4 h` or `2.5 days`."""
    for limit, unit, size, digits in (
        (100, "s", 1, 0), (100 * 60, "min", 60, 0), (48 * 3600, "h", 3600, 1)
    ):  # fmt: skip
        if seconds < limit:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _threads(device: torch.device) -> int | None:
    return torch.get_num_threads() if device.type == "cpu" else None


class _Judge:
    """Says how long runs take. Measures each method and size once, as long as there is time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.work_of = Workloads(_threads(device))
        self.known = finished_rates(device, self.work_of)
        self.measured: dict[tuple[Any, ...], dict[str, Rate]] = {}
        self.deadline = time.monotonic() + MEASURE_SECONDS

    def __call__(self, config: ResolvedConfig) -> tuple[float, str]:
        """Seconds of a run, and what they are judged by."""
        if not is_here(config.dataset):
            return math.nan, NOT_HERE
        name = run_id(config, load_data(config.dataset))
        if is_finished(paths.runs_dir() / name):
            return 0.0, FINISHED
        rate, basis = self._rate(config)
        return rate.seconds(self.work_of(config)), basis

    def _rate(self, config: ResolvedConfig) -> tuple[Rate, str]:
        finished = self.known.get(_sizes(config), {})
        if config.method in finished:
            return Rate.mean(finished[config.method]), SAME_METHOD
        others = [r for method, all_ in finished.items() if method != UNTRAINED for r in all_]
        if others:
            return Rate.mean(others), OTHER_METHODS
        measured = self.measured.setdefault(_sizes(config), {})
        if config.method not in measured and (not measured or time.monotonic() < self.deadline):
            measured[config.method] = measure(config, self.device)
        if config.method in measured:
            return measured[config.method], MEASURED
        others = [rate for method, rate in measured.items() if method != UNTRAINED]
        return Rate.mean(others or list(measured.values())), MEASURED_OTHER


def _sizes(config: ResolvedConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in SIZES)


def _methods(group: pd.DataFrame) -> list[str]:
    settings = group.groupby("method", sort=False)["settings"].nunique()
    names = [f"{name} ({count} settings)" for name, count in settings.items() if count > 1]
    plain = [name for name, count in settings.items() if count == 1]
    if set(METHODS) <= set(settings.index):
        return ["every method", *names]
    return plain + names
