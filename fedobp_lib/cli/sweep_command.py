"""What `fedobp sweep` does."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from ..errors import UserError


def sweep(options: argparse.Namespace) -> int:
    from ..runs.sweeps import check_engine, in_shard
    from ..runs.sweeps import sweep as compute

    runs = _runs(options)
    shard = _shard(options.shard)
    if options.dry_run:
        from ..runs.estimate import forecast, forecast_text

        check_engine(options.engine)
        mine = in_shard([config.resolved(options.device) for config in runs], shard)
        print(forecast_text(forecast(mine, options.device)))
        return 0
    done = compute(
        runs,
        options.device,
        pack=options.pack,
        workers=options.workers,
        shard=shard,
        bank=options.bank,
        engine=options.engine,
        cpus_per_pack=options.cpus_per_pack,
        gpus_per_pack=options.gpus_per_pack,
    )
    _tell(done)
    return 1 if done.failed or done.diverged else 0


def _runs(options: argparse.Namespace) -> list:
    """The runs asked for: by a file, by numbers of tables and figures, or by values."""
    from ..report.reproduce import choose
    from ..runs.grids import combinations, read_grid

    values = _values(options)
    if options.file or options.table or options.figure:
        if values or options.set:
            raise UserError("a file, or a table or figure, says which runs; give no values beside")
        if options.file and (options.table or options.figure):
            raise UserError("a file says which runs, or tables and figures do; give one of them")
        if options.file:
            return read_grid(Path(options.file))
        return choose(options.preset, options.table, options.figure).runs
    if not values:
        raise UserError("which runs? give values such as --method and --seed, or --file or --table")
    settings: dict[str, list[str]] = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, got {text!r}")
        settings.setdefault(name, []).append(value)
    return combinations(values, settings)


def _values(options: argparse.Namespace) -> dict[str, Any]:
    from ..runs.grids import FIELDS

    given = {name: getattr(options, name, None) for name in FIELDS}
    return {name: value for name, value in given.items() if value is not None}


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UserError(f"--shard takes I/N, such as 2/8, got {text!r}")
    return int(match[1]), int(match[2])


def _tell(done) -> None:
    from .commands import divergence

    finished = len(done.results) - len(done.diverged)
    told = [f"{finished} finished"]
    told += [f"{len(done.diverged)} diverged"] if done.diverged else []
    told += [f"{len(done.failed)} failed"] if done.failed else []
    told += [f"{done.elsewhere} missing in other shards"] if done.elsewhere else []
    print(f"runs: {', '.join(told)}")
    for result in done.diverged:
        print(f"  {result.run_id} {result.config.method}: {divergence(result)}")
    for name, why in done.failed.items():
        print(f"  {name} failed: {why}")
