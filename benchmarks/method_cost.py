"""Time and memory of a round of every method, relative to FedAvg's.

    python benchmarks/method_cost.py > benchmarks/method_cost.csv

MNIST-sized random images, 100 clients of a Dirichlet(0.1) split, 10 a round, 5 epochs, batch 32.
Each method has a process of its own, in which it and FedAvg then take turns round by round, with
the same cohorts, so that a slow phase of the machine hits both. A round is everything but
evaluation; the first one, in which some methods do more, is not counted. Memory is the
process's peak above what it had when the data were ready, before FedAvg joins in. Prints CSV on
standard output.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

import numpy as np
import torch
from rows import Rows, made_by

from fedobp_lib import RunConfig
from fedobp_lib.data.images import ImageData
from fedobp_lib.methods import METHODS
from fedobp_lib.simulation import Simulation, simulate


def measure(method: str, rounds: int) -> dict[str, float]:
    """Seconds a round of the method and of FedAvg beside it, and the method's peak bytes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70_000, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, len(images))
    data = ImageData("random", images, labels, np.ones(len(images), bool), 10, "random")

    def simulation(name: str) -> Simulation:
        made = simulate(RunConfig(method=name, dataset="mnist", rounds=rounds + 1), data)
        # Without evaluation, which costs the same for all.
        made._test_cohort = made._record = made._evaluate_all = lambda *_: None
        return made

    data.on(torch.device("cpu"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours = simulation(method)
    ours.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = simulation("fedavg")
    unit.step()
    started = [ours.seconds["rounds"], unit.seconds["rounds"]]
    while not ours.done:
        ours.step()
        unit.step()
    return {
        "seconds": (ours.seconds["rounds"] - started[0]) / rounds,
        "fedavg_seconds": (unit.seconds["rounds"] - started[1]) / rounds,
        "bytes": 1024 * (peak - before),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, options.rounds)))
        return
    others = [name for name in options.methods if name not in ("fedavg", "majority-class")]
    cost: dict[str, dict[str, float]] = {}
    for name in ["fedavg", *others]:
        print(name, file=sys.stderr)
        command = [sys.executable, __file__, "--only", name, "--rounds", str(options.rounds)]
        cost[name] = json.loads(subprocess.check_output(command))
    made = made_by(torch.device("cpu"))
    rows = Rows()
    for name, measured in cost.items():
        row = {
            "method": METHODS[name].title,
            "time": round(measured["seconds"] / measured["fedavg_seconds"], 2),
            "memory": round(measured["bytes"] / cost["fedavg"]["bytes"], 2),
            "seconds_per_round": round(measured["seconds"], 2),
            "fedavg_seconds_per_round": round(measured["fedavg_seconds"], 2),
            "peak_gib": round(measured["bytes"] / 2**30, 2),
            "rounds": options.rounds,
            **made,
        }
        rows.add(row)


if __name__ == "__main__":
    main()
