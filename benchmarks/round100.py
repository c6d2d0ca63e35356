"""The kit's own runs on real images: computes them, and writes what the repository keeps of them.

    python benchmarks/round100.py [--parts cifar100 mnist-fmnist ...] [--finished]

Hours on a CPU; Ctrl-C keeps what is finished, and the same command goes on. With `--finished`
nothing is computed. `figures/round100/history.csv` and `runs.csv` gain the finished runs of all
parts, with the settings and the provenance of each; what they keep already, of another machine or
day, stays and is not computed again. README.md's part about them is written anew; `fedobp
findings` and notebook 14 tell and draw them. The data sets must be here. CIFAR-10 may be any copy
of it: its fingerprint is kept.
"""

from __future__ import annotations

import argparse

from fedobp_lib import paths, sweep
from fedobp_lib.results.kept_runs import keep, not_kept
from fedobp_lib.results.own_readme import with_readme_part
from fedobp_lib.results.own_runs import own_runs
from fedobp_lib.runs.round100 import PRESET, parts
from fedobp_lib.runs.sweeps import finished


def main() -> None:
    known = parts()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=known, default=list(known))
    parser.add_argument("--finished", action="store_true", help="compute nothing")
    options = parser.parse_args()
    folder = paths.figures_dir(PRESET)
    if not options.finished:
        sweep(not_kept([run for part in options.parts for run in known[part]], folder))
    done = finished(run for runs in known.values() for run in runs)
    keep(done, folder)
    if done:
        readme = paths.project_root() / "README.md"
        text = readme.read_text(encoding="utf-8")
        readme.write_text(with_readme_part(text, own_runs()), encoding="utf-8")


if __name__ == "__main__":
    main()
