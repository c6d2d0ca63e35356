"""Time and memory of a round of every method, relative to FedAvg's.

    python benchmarks/method_cost.py > benchmarks/method_cost.csv

MNIST-sized random images, 100 clients of a Dirichlet(0.1) split, 10 a round, 5 epochs, batch 32.
Each method is measured in a process of its own, and FedAvg's process runs before and after
all others: its mean is the unit. A round is everything but evaluation; the first one, in
which some methods do more, is not counted. Memory is the process's peak above what it had when
the data were ready. Prints CSV on standard output.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import torch

from fedobp_lib import RunConfig
from fedobp_lib.datasets import ImageData
from fedobp_lib.methods import METHODS
from fedobp_lib.runs import provenance
from fedobp_lib.simulation import Simulation


def measure(method: str, rounds: int) -> dict[str, float]:
    """Seconds a round and peak bytes of one method."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70_000, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, len(images))
    data = ImageData("random", images, labels, np.ones(len(images), bool), 10, "random")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = RunConfig(method=method, dataset="mnist", rounds=rounds + 1)
    simulation = Simulation(config, data)
    # Without evaluation, which costs the same for all.
    simulation._test = simulation._record = simulation._evaluate_all = lambda *_: None
    simulation.step()
    started = simulation.seconds["rounds"]
    while not simulation.done:
        simulation.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": (simulation.seconds["rounds"] - started) / rounds,
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
    cost: dict[str, list[dict[str, float]]] = {}
    for name in ["fedavg", *others, "fedavg"]:
        print(name, file=sys.stderr)
        command = [sys.executable, __file__, "--only", name, "--rounds", str(options.rounds)]
        cost.setdefault(name, []).append(json.loads(subprocess.check_output(command)))
    unit = {key: np.mean([c[key] for c in cost["fedavg"]]) for key in ("seconds", "bytes")}
    made = provenance(torch.device("cpu"))
    writer = None
    for name, measured in cost.items():
        row = {
            "method": METHODS[name].title,
            "time": round(np.mean([c["seconds"] for c in measured]) / unit["seconds"], 2),
            "memory": round(np.mean([c["bytes"] for c in measured]) / unit["bytes"], 2),
            "seconds_per_round": round(np.mean([c["seconds"] for c in measured]), 2),
            "peak_gib": round(np.mean([c["bytes"] for c in measured]) / 2**30, 2),
            "rounds": options.rounds,
            "device": made["device"],
            "threads": made["threads"],
            "torch": made["torch"],
            "commit": made["commit"],
            "date": datetime.now(UTC).date().isoformat(),
        }
        if writer is None:
            writer = csv.DictWriter(sys.stdout, row)
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
