"""How long runs will take, judged from rounds that this machine has computed.

A round's time is that of finished runs of the same method, data set, model and sizes on the same
device; else of other methods' runs; else of a round that is computed now, in memory, or the mean
of such rounds of other methods. Runs that are packed on a GPU share their time, so there the sum
is an upper bound.
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
from ..methods import METHODS
from ..simulation import simulate
from ..terminal import aligned, folded
from ..training.backends import choose_device
from .provenance import provenance
from .store import RunResult, is_finished, load_data, run_id

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

Known = dict[tuple[Any, ...], dict[str, list[float]]]


@dataclass(frozen=True)
class Round:
    """Times of one round with one cohort.

    Attributes:
        train: seconds to merge, train and average.
        test: seconds to test each client of the cohort once.
    """

    train: float
    test: float

    def seconds(self, config: ResolvedConfig) -> float:
        """Time of a whole run; all clients are tested, and fine-tuned, cohort by cohort."""
        cohorts = config.clients / config.cohort_size
        tests = math.ceil(config.rounds / config.eval_every)
        tuned = {"final": 1, "always": tests, "never": 0}[config.eval_after]
        everyone = tests * self.test + tuned * (self.train + self.test)
        return config.rounds * (self.train + 2 * self.test) + cohorts * everyone


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
    known = finished_rounds(where)
    measure = _Measure(where)
    rows = []
    for config in (config.resolved() for config in configs):
        seconds, basis = _seconds(config, known, measure)
        rows.append(
            {
                "dataset": config.dataset, "model": config.model, "alpha": config.alpha,
                "method": config.method, "rounds": config.rounds,
                "settings": str(config.settings), "seconds": seconds, "basis": basis,
            }
        )  # fmt: skip
    columns = ["dataset", "model", "alpha", "method", "rounds", "settings", "seconds", "basis"]
    return pd.DataFrame(rows, columns=columns)


def finished_rounds(device: torch.device) -> Known:
    """Seconds a round of the finished runs of a device, evaluation included, by size and method."""
    here = provenance(device)
    known: Known = {}
    for folder in sorted(paths.runs_dir().glob("*/")):
        if not is_finished(folder):
            continue
        result = RunResult(folder)
        made = result.summary["provenance"]
        if all(made[key] == here[key] for key in ("device", "threads")):
            seconds = result.summary["seconds_total"] / result.config.rounds
            methods = known.setdefault(_sizes(result.config), {})
            methods.setdefault(result.config.method, []).append(seconds)
    return known


def measure_round(config: ResolvedConfig, device: torch.device) -> Round:
    """Times of a round of a run on its data, in memory."""
    # One epoch after a first round that warms up; random weights take as long as pretrained ones.
    short = replace(config, local_epochs=1, pretrained=False, rounds=3, eval_every=3)
    simulation = simulate(short, load_data(config.dataset), device)
    simulation.step()
    before = dict(simulation.seconds)
    simulation.step()
    train, test = (simulation.seconds[key] - before[key] for key in ("rounds", "evaluation"))
    return Round(config.local_epochs * train, test / 2)


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


def _seconds(config: ResolvedConfig, known: Known, measure: _Measure) -> tuple[float, str]:
    if not is_here(config.dataset):
        return math.nan, NOT_HERE
    name = run_id(config, load_data(config.dataset))
    if is_finished(paths.runs_dir() / name):
        return 0.0, FINISHED
    methods = known.get(_sizes(config), {})
    if config.method in methods:
        return config.rounds * mean(methods[config.method]), SAME_METHOD
    others = [s for method, all_ in methods.items() if method != UNTRAINED for s in all_]
    if others:
        return config.rounds * mean(others), OTHER_METHODS
    return measure(config)


class _Measure:
    """Measures a round of each method and size once, as long as there is time for it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rounds: dict[tuple[Any, ...], dict[str, Round]] = {}
        self.deadline = time.monotonic() + MEASURE_SECONDS

    def __call__(self, config: ResolvedConfig) -> tuple[float, str]:
        """Seconds of a run, and what they are judged by."""
        known = self.rounds.setdefault(_sizes(config), {})
        if config.method not in known and (not known or time.monotonic() < self.deadline):
            known[config.method] = measure_round(config, self.device)
        if config.method in known:
            return known[config.method].seconds(config), MEASURED
        others = [r.seconds(config) for name, r in known.items() if name != UNTRAINED]
        return mean(others or [r.seconds(config) for r in known.values()]), MEASURED_OTHER


def _sizes(config: ResolvedConfig) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in SIZES)


def _methods(group: pd.DataFrame) -> list[str]:
    settings = group.groupby("method", sort=False)["settings"].nunique()
    names = [f"{name} ({count} settings)" for name, count in settings.items() if count > 1]
    plain = [name for name, count in settings.items() if count == 1]
    if set(METHODS) <= set(settings.index):
        return ["every method", *names]
    return plain + names
