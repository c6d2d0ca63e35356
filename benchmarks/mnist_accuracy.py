"""Accuracy of every method on MNIST after a few rounds, beside the paper's 400.

    fedobp reproduce --table 6 --datasets mnist --rounds 20 --seeds 1
    python benchmarks/mnist_accuracy.py > benchmarks/mnist_accuracy.csv

The runs of the first command (computed here if they are missing): the paper's setting but for
the rounds and seeds. `before` is before local training, best of the evaluated rounds, as the
published numbers are; `after` is after local training, last round; all pooled over all clients,
percent. Prints CSV on standard output; device, versions and commit are those of the runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pandas as pd

from fedobp_lib import grid, run_all
from fedobp_lib.results.tables import accuracy_table
from fedobp_lib.runs.store import RunResult

ALPHAS = (0.1, 0.5)


def wide(results: Sequence[RunResult]) -> pd.DataFrame:
    """A row a method: before, published and after at each alpha."""
    before = accuracy_table(results)
    after = accuracy_table(results, stage="after", which="last")
    columns = {}
    for alpha in ALPHAS:
        for name, table, value in (
            ("before", before, "mean"),
            ("published", before, "published_mean"),
            ("after", after, "mean"),
        ):
            cell = table[table["alpha"] == alpha].set_index("title")[value]
            columns[f"{name}_{alpha:g}"] = cell
    return pd.DataFrame(columns).sort_values("before_0.1", ascending=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    options = parser.parse_args()
    configs = grid("quick", ["mnist"], ALPHAS, None, options.seeds, options.rounds)
    results = run_all(configs)
    made = [result.summary["provenance"] for result in results]
    told = {
        name: "; ".join(sorted({str(one[name]) for one in made}))
        for name in ("device", "threads", "torch", "commit")
    }
    table = wide(results).round(2).rename_axis("method")
    table = table.assign(seeds=len(options.seeds), rounds=options.rounds, **told)
    table["date"] = max(one["finished"] for one in made)[:10]
    table.to_csv(sys.stdout)


if __name__ == "__main__":
    main()
