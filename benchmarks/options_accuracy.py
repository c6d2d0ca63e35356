"""Whether back-ends and precisions change accuracy: the same MNIST runs with each.

    python benchmarks/options_accuracy.py > benchmarks/options_accuracy.csv

FedOBP and MNIST (alpha 0.1, 100 clients, 10 a round, 50 rounds) unless told otherwise. All
options see the same split, and for the same seed the same initial weights, cohorts and batches; how
far two seeds lie apart is what a difference between two options is to be compared with. Accuracies
are in percent, pooled over all clients, before local training, after the last round. Prints CSV on
standard output, a row a run.
"""

from __future__ import annotations

import argparse
import sys

from rows import Rows, made_by

from fedobp_lib import RunConfig
from fedobp_lib.runs.store import load_data
from fedobp_lib.simulation import simulate
from fedobp_lib.training.backends import choose_device


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
    data = load_data(options.dataset)
    made = made_by(device)
    rows = Rows()
    for option in grid:
        backend, precision = option.split(":")
        for seed in options.seeds:
            print(f"{option}, seed {seed}", file=sys.stderr)
            config = RunConfig(
                method=options.method, dataset=options.dataset, rounds=options.rounds, seed=seed,
                precision=precision, eval_every=options.rounds, eval_after="never",
            )  # fmt: skip
            simulation = simulate(config, data, device, backend=backend)
            simulation.run(progress=False)
            pooled = simulation.history_frame().query("scope == 'all' and average == 'pooled'")
            row = {
                "method": options.method,
                "dataset": options.dataset,
                "rounds": options.rounds,
                "backend": backend,
                "precision": precision,
                "seed": seed,
                "accuracy": round(pooled["accuracy"].iloc[-1], 2),
                **made,
            }
            rows.add(row)


if __name__ == "__main__":
    main()
