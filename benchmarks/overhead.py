"""What keeping a run on disk costs, and whether two worker processes are worth it.

    python benchmarks/overhead.py > benchmarks/overhead.csv

A run of the preset `quick` (digits) three ways: its rounds alone, in memory; by `run`; and by
`sweep`. Then several runs by a sweep in this process, on all its threads, and in two worker
processes, which share them. What is compared takes turns, and the order is reversed each time.
Single turns of the same rounds differ by several percent, more than a run on disk costs, so there
are many. Prints CSV: median times, and the median, least and largest of the turns' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from rows import Rows, made_by

from fedobp_lib import RunConfig, grid, run, sweep
from fedobp_lib.runs.store import load_data
from fedobp_lib.simulation import simulate


def in_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, turn by turn, each time with a folder of runs that is empty."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        order = list(ways) if turn % 2 == 0 else list(ways)[::-1]
        for name in order:
            with tempfile.TemporaryDirectory() as home:
                os.environ["FEDOBP_RUNS"] = home
                began = time.perf_counter()
                ways[name]()
                times[name].append(time.perf_counter() - began)
            print(f"turn {turn + 1}: {name} {times[name][-1]:.2f} s", file=sys.stderr)
    return times


def rows_of(times: dict[str, list[float]], runs: int) -> list[dict[str, object]]:
    """A row for each way but the first, which it is compared with."""
    first, *others = times
    rows: list[dict[str, object]] = []
    for name in others:
        ratios = [a / b for a, b in zip(times[name], times[first], strict=True)]
        rows.append(
            {
                "what": name, "beside": first, "runs": runs, "turns": len(ratios),
                "seconds": f"{statistics.median(times[name]):.2f}",
                "seconds_beside": f"{statistics.median(times[first]):.2f}",
                "ratio": f"{statistics.median(ratios):.3f}",
                "ratio_least": f"{min(ratios):.3f}", "ratio_most": f"{max(ratios):.3f}",
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--turns", type=int, default=20, help="of the single run")
    parser.add_argument("--sweep-turns", type=int, default=2)
    parser.add_argument("--runs", type=int, default=8, help="of a sweep")
    options = parser.parse_args()
    (config,) = grid("quick", methods=["fedobp"], seeds=[0])
    runs = grid("quick", methods=["fedobp"], seeds=range(options.runs))
    with tempfile.TemporaryDirectory() as home:  # what is done only once in a process
        run(RunConfig(rounds=1), directory=home, progress=False)
    single = in_turns(
        {
            "rounds alone": lambda: simulate(config, load_data("digits")).run(progress=False),
            "run": lambda: run(config, device="cpu", progress=False),
            "sweep": lambda: sweep([config], "cpu", progress=False),
        },
        options.turns,
    )
    several = in_turns(
        {
            "one process": lambda: sweep(runs, "cpu", progress=False, workers=1),
            "two workers": lambda: sweep(runs, "cpu", progress=False, workers=2),
        },
        options.sweep_turns,
    )
    table = Rows()
    for row in [*rows_of(single, 1), *rows_of(several, len(runs))]:
        table.add(row | made_by(torch.device("cpu")))


if __name__ == "__main__":
    main()
