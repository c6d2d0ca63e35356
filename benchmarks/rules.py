"""FedOBP by rules without a tuned quantile, and the controls, on MNIST: 50 rounds, 3 seeds.

    python benchmarks/rules.py [--workers 2] [--finished]

The paper's setting otherwise; these are the runs of notebook 13. Hours on a CPU; Ctrl-C keeps what
is finished, and the same command goes on. With `--finished` nothing is computed.
`figures/rules50/history.csv` and `runs.csv` gain the finished runs, with the settings and the
provenance of each; what they keep already, of another machine or day, stays and is not computed
again. MNIST must be here.
"""

from __future__ import annotations

import argparse

from fedobp_lib import paths, sweep
from fedobp_lib.config import RunConfig
from fedobp_lib.results.kept_runs import keep, not_kept
from fedobp_lib.runs.experiments import rule_runs
from fedobp_lib.runs.rules import KEPT, KEPT_ROUNDS
from fedobp_lib.runs.sweeps import finished

SEEDS = (0, 1, 2)


def runs() -> list[RunConfig]:
    """Seed by seed, so that what is finished can be compared."""
    return [
        run
        for seed in SEEDS
        for run in rule_runs("paper", datasets=["mnist"], seeds=[seed], rounds=KEPT_ROUNDS)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, help="processes that compute")
    parser.add_argument("--finished", action="store_true", help="compute nothing")
    options = parser.parse_args()
    folder = paths.figures_dir(KEPT)
    if not options.finished:
        sweep(not_kept(runs(), folder), workers=options.workers)
    keep(finished(runs()), folder)


if __name__ == "__main__":
    main()
