"""Whether back-ends and precisions change accuracy: the same MNIST runs with each.

    python benchmarks/options_accuracy.py > benchmarks/options_accuracy.csv

FedOBP and MNIST (alpha 0.1, 100 clients, 10 a round, 50 rounds) unless told otherwise. All
options see the same splits, cohorts and batches for the same seed, so a column's spread over seeds
is what a difference between two rows is to be compared with. Accuracies are in percent, pooled
over all clients, before local training, after the last round. Prints CSV on standard output.
"""

from __future__ import annotations

import argparse
import csv
import sys
from datetime import UTC, datetime

import numpy as np

from fedobp_lib import RunConfig, runs
from fedobp_lib.runs import provenance
from fedobp_lib.simulation import Simulation, choose_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--method", default="fedobp")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--options", nargs="+", metavar="BACKEND:PRECISION")
    options = parser.parse_args()
    device = choose_device(options.device)
    precisions = ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")
    grid = options.options or [f"{b}:{p}" for b in ("loop", "batched") for p in precisions]
    data = runs.load_data(options.dataset)
    made = provenance(device)
    writer = None
    for option in grid:
        backend, precision = option.split(":")
        accuracy = []
        for seed in options.seeds:
            print(f"{option}, seed {seed}", file=sys.stderr)
            config = RunConfig(
                method=options.method, dataset=options.dataset, rounds=options.rounds, seed=seed,
                precision=precision, eval_every=options.rounds, eval_after="never",
            )  # fmt: skip
            simulation = Simulation(config, data, device, backend=backend)
            simulation.run(progress=False)
            correct = simulation.history_frame().query("scope == 'all' and average == 'pooled'")
            accuracy.append(correct["accuracy"].iloc[-1])
        row = {
            "method": options.method,
            "dataset": options.dataset,
            "backend": backend,
            "precision": precision,
            "rounds": options.rounds,
            "mean": round(float(np.mean(accuracy)), 2),
            "least": round(min(accuracy), 2),
            "most": round(max(accuracy), 2),
            "seeds": len(accuracy),
            "device": made["device"],
            "torch": made["torch"],
            "commit": made["commit"],
            "date": datetime.now(UTC).date().isoformat(),
        }
        if writer is None:
            writer = csv.DictWriter(sys.stdout, row)
            writer.writeheader()
        writer.writerow(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
