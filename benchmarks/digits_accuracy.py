"""Accuracy of every method on the embedded digits, before and after local training.

    python benchmarks/digits_accuracy.py > benchmarks/digits_accuracy.csv

20 clients, 4 a round, alpha 0.1, 40 rounds, seeds 0 and 1, protocol `released`; pooled over all
clients in the last round, percent, mean and standard deviation over seeds. Runs are kept and
continued like all others. Prints CSV on standard output.
"""

from __future__ import annotations

import argparse
import sys

import torch
from rows import made_by

from fedobp_lib import grid, run_all
from fedobp_lib.results.tables import accuracy_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    options = parser.parse_args()
    results = run_all(grid("quick", ["digits"], [0.1], None, options.seeds, options.rounds))
    tables = {
        stage: accuracy_table(results, stage=stage, which="last").set_index("title")
        for stage in ("before", "after")
    }
    table = tables["before"][["mean", "std"]].add_prefix("before_")
    table = table.join(tables["after"][["mean", "std"]].add_prefix("after_"))
    table = table.sort_values("before_mean", ascending=False).round(2).rename_axis("method")
    table["seeds"] = len(options.seeds)
    table["rounds"] = options.rounds
    table = table.assign(**made_by(torch.device("cpu")))
    table.to_csv(sys.stdout)


if __name__ == "__main__":
    main()
