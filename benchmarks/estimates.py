"""What `--dry-run` says a run takes, beside what it then takes.

    python benchmarks/estimates.py > benchmarks/estimates.csv

MNIST in the paper's setting, Dirichlet(0.1), in a folder of its own. Each method is judged three
times: when nothing is finished (from rounds measured then), after a run of two rounds of the same
method, and after one of two rounds of FedAvg alone. Then it is computed, in a process of its own.
`two_rounds`, `nothing` and `fedavg` are estimate / time, so that 1 is right. The machine must be
idle. Prints CSV on standard output.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

import torch
from rows import Rows, made_by

from fedobp_lib import RunConfig
from fedobp_lib.runs.estimate import forecast
from fedobp_lib.runs.sweeps import finished

METHODS = ("fedavg", "fedobp", "fedper", "local-only", "pfedfda", "apfl", "fedala", "feddpa")


def seconds(config: RunConfig) -> float:
    """The estimate of a run."""
    return float(forecast([config])["seconds"].iloc[0])


def compute(config: RunConfig) -> float:
    """Seconds of a run in a process of its own."""
    command = [sys.executable, "-m", "fedobp_lib", "run", "--method", config.method,
               "--dataset", config.dataset, "--rounds", str(config.rounds)]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return finished([config])[0].summary["seconds_total"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    options = parser.parse_args()
    made, rows = made_by(torch.device("cpu")), Rows()
    with tempfile.TemporaryDirectory() as home:
        os.environ["FEDOBP_RUNS"] = home
        wanted = {
            name: RunConfig(method=name, dataset="mnist", rounds=options.rounds)
            for name in options.methods
        }
        nothing = {name: seconds(config) for name, config in wanted.items()}
        compute(RunConfig(method="fedavg", dataset="mnist", rounds=2))
        by_fedavg = {name: seconds(config) for name, config in wanted.items()}
        for name, config in wanted.items():
            print(name, file=sys.stderr)
            if name != "fedavg":
                compute(RunConfig(method=name, dataset="mnist", rounds=2))
            after_two, took = seconds(config), compute(config)
            rows.add(
                {
                    "method": name,
                    "two_rounds": round(after_two / took, 2),
                    "nothing": round(nothing[name] / took, 2),
                    "fedavg": round(by_fedavg[name] / took, 2),
                    "seconds": round(took, 1),
                    "rounds": options.rounds,
                    **made,
                }
            )


if __name__ == "__main__":
    main()
