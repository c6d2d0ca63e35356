"""Many runs: which are missing, and computing them, in one process or several."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .. import paths
from ..config import RunConfig
from ..data.datasets import is_here
from ..errors import SweepFailed, UserError, unknown
from ..methods import METHODS
from ..training.backends import choose_device
from . import preemption
from .bank_choice import check_bank
from .computing import Engine, Group, Report, compute
from .display import Display
from .execution import run, tell_device
from .files import check_writable
from .packs import fitting, packs
from .store import RunResult, damage, is_finished, load_data, run_id
from .workers import Workers, default_workers

ENGINES = ("local", "ray")


def run_ids(configs: Iterable[RunConfig]) -> list[str]:
    """The runs' names; needs their data."""
    every = [config.resolved() for config in configs]
    return [run_id(config, load_data(config.dataset)) for config in every]


def missing(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """Those of the runs that are not finished yet, each once."""
    configs, home = list(configs), paths.runs_dir()
    found: dict[str, RunConfig] = {}
    for name, config in zip(run_ids(configs), configs, strict=True):
        if not is_finished(home / name):
            found.setdefault(name, config)
    return list(found.values())


def finished(configs: Iterable[RunConfig]) -> list[RunResult]:
    """Those of the runs that are finished, each once, in order; computes and downloads nothing.

    A run belongs to its data: where a data set's file is not here, none of its runs is found.
    """
    home = paths.runs_dir()
    found: dict[str, RunResult] = {}
    for config in configs:
        resolved = config.resolved()
        if not is_here(resolved.dataset):
            continue
        name = run_id(resolved, load_data(resolved.dataset))
        reason = damage(home / name)
        if reason and name not in found:
            _say(f"warning: run {name} is damaged and left out: {reason}")
        if is_finished(home / name):
            found.setdefault(name, RunResult(home / name))
    return list(found.values())


def in_shard(configs: Sequence[RunConfig], shard: tuple[int, int]) -> list[RunConfig]:
    """Those of the runs that a shard (I, N) computes; of several shards their data must be here.

    Raises:
        UserError: there is no such shard.
    """
    if shard == (1, 1):
        return list(configs)
    names = run_ids(configs)
    mine = _part_of(names, shard)
    return [config for name, config in zip(names, configs, strict=True) if name in mine]


def check_engine(name: str) -> None:
    """Raise UserError for an unknown engine."""
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)


@dataclass(frozen=True)
class Sweep:
    """What became of a sweep's runs.

    Attributes:
        results: the finished runs, in the order of the configurations, each once; some may have
            diverged.
        failed: why runs failed, by their ids.
        elsewhere: how many runs belong to other shards and are not finished.
    """

    results: list[RunResult]
    failed: dict[str, str]
    elsewhere: int = 0

    @property
    def diverged(self) -> list[RunResult]:
        return [result for result in self.results if result.diverged]


def sweep(
    configs: Sequence[RunConfig],
    device: str = "auto",
    progress: bool = True,
    pack: int | None = None,
    workers: int | None = None,
    shard: tuple[int, int] = (1, 1),
    bank: str = "auto",
    engine: str = "local",
    cpus_per_pack: int | None = None,
    gpus_per_pack: float | None = None,
) -> Sweep:
    """Compute the missing ones of many runs under one progress bar; one that fails stops no other.

    Finished runs survive an interruption; the same call continues.

    Args:
        configs: the runs.
        device: `auto`, `cpu` or `cuda`.
        progress: say which device computes, and show a bar with the time left, while there is
            work.
        pack: how many runs are computed as one batch where they have data set, model and sizes
            in common; None: up to 16 by the free memory of a GPU, 1 on a CPU. Results are those
            of the runs alone, up to rounding.
        workers: processes; 1: this one; None: one a GPU, or one for every eight cores, but this
            one for methods that are not the kit's, as other processes do not know them. On Ray:
            how many packs are computed at once at most; None: all that there is room for.
        shard: (I, N): only the I-th of N parts, counted from 1; the parts are disjoint and the
            same whoever computes them.
        bank: where the rows of clients are kept, see `execution.run`.
        engine: `local`, or `ray`: the Ray cluster at `$RAY_ADDRESS`, else this machine as one.
        cpus_per_pack: on Ray, of a pack; None: 1.
        gpus_per_pack: on Ray, of a pack, 0.5 for instance; None: 1 where the cluster has any.

    Raises:
        Preempted: the process was asked to end (SIGTERM); checkpoints are written.
        UserError: a configuration that cannot be run, or the folder of runs cannot be written.
    """
    for name, number in (("workers", workers), ("pack", pack)):
        if number is not None and number < 1:
            raise UserError(f"{name} must be at least 1, got {number}")
    check_bank(bank)
    check_engine(engine)
    if engine != "ray" and (cpus_per_pack, gpus_per_pack) != (None, None):
        raise UserError("cpus_per_pack and gpus_per_pack are for the engine ray")
    resolved = [config.resolved(device) for config in configs]
    names = run_ids(resolved)
    mine = _part_of(names, shard)
    wanted = dict(zip(names, resolved, strict=True))
    todo = {name: config for name, config in wanted.items() if _is_missing(name)}
    elsewhere = [name for name in todo if name not in mine]
    todo = {name: config for name, config in todo.items() if name in mine}
    failed: dict[str, str] = {}
    if todo:
        check_writable(paths.runs_dir())
        runs = list(todo.values())
        wanted_engine = _engine(
            engine, runs, device, pack, workers, bank, cpus_per_pack, gpus_per_pack
        )
        with wanted_engine as by:
            if progress:
                by.tell(", ".join(dict.fromkeys(config.precision for config in runs)))
            with Display(todo, progress) as display, preemption.watching():
                by.compute(packs(runs, by.size), display.tell)
                failed |= display.failed
                for name in display.busy:
                    # Whoever computes it may fail, so this one waits for it and looks itself.
                    run(todo[name], device=device, bank=bank, progress=False)
    home = paths.runs_dir()
    results = [RunResult(home / name) for name in wanted if not _is_missing(name)]
    return Sweep(results, failed, len(elsewhere))


def run_all(configs: Sequence[RunConfig], *arguments: Any, **options: Any) -> list[RunResult]:
    """The results of all runs, in their order, computing the missing ones; see `sweep`.

    Raises:
        SweepFailed: runs failed; the others are finished.
    """
    configs = list(configs)
    done = sweep(configs, *arguments, **options)
    if done.failed:
        raise SweepFailed(
            "; ".join(f"run {name} failed: {why}" for name, why in done.failed.items())
        )
    found = {result.run_id: result for result in done.results}
    device = options.get("device", arguments[0] if arguments else "auto")
    return [found[name] for name in run_ids([config.resolved(device) for config in configs])]


class _Local:
    """The `Engine` of this machine: this process, or several."""

    def __init__(self, device: str, pack: int | None, workers: int, bank: str) -> None:
        self._device = device
        self._bank = bank
        self._where = choose_device(device)
        self._workers = workers
        self.size = pack or (fitting(self._where, bank) if self._where.type == "cuda" else 1)

    def tell(self, precisions: str) -> None:
        tell_device(self._where, precisions)

    def compute(self, groups: Sequence[Group], report: Report) -> None:
        count = min(self._workers, len(groups))
        if count > 1:
            device = self._device if self._device != "auto" else self._where.type
            Workers(count, device, self._bank).compute(groups, report)
        else:
            compute(groups, self._device, report, self._bank)


@contextmanager
def _engine(
    name: str,
    configs: Sequence[RunConfig],
    device: str,
    pack: int | None,
    workers: int | None,
    bank: str,
    cpus: int | None,
    gpus: float | None,
) -> Iterator[Engine]:
    own = _not_the_kits(configs)
    if name == "ray":
        if own:
            raise UserError(f"method {own!r} is not the kit's, and Ray's processes do not know it")
        from .ray_cluster import cluster

        with cluster(device, pack, workers, bank, cpus, gpus) as engine:
            yield engine
    else:
        default = 1 if own else default_workers(choose_device(device))
        yield _Local(device, pack, workers or default, bank)


def _not_the_kits(configs: Iterable[RunConfig]) -> str | None:
    """A method that only this process knows, if there is one among the runs'."""
    kit = __name__.partition(".")[0]
    for config in configs:
        if METHODS[config.method].__module__.partition(".")[0] != kit:
            return config.method
    return None


def _is_missing(name: str) -> bool:
    return not is_finished(paths.runs_dir() / name)


def _part_of(names: Iterable[str], shard: tuple[int, int]) -> set[str]:
    number, count = shard
    if not 1 <= number <= count:
        raise UserError(f"shard {number}/{count}: there are shards 1/{count} to {count}/{count}")
    return set(sorted(set(names))[number - 1 :: count])


def _say(message: str) -> None:
    print(message, file=sys.stderr)
