"""A sweep of six runs, killed at random moments and started again, beside the undisturbed one.

    python benchmarks/kills.py --kills 200 > benchmarks/kills.csv

The sweep's process and its workers are killed (SIGKILL) after a random time and the same command is
given again, until it was killed so often; whenever a sweep finishes before, the runs are removed
and begun anew. At the end of each such turn every file but `summary.json` is compared byte by byte
with the undisturbed runs. Checkpoints are written after every round. Prints CSV: turns, kills, how
many of them met an unfinished run that had a checkpoint, and how many runs differed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rows import Rows, made_by

from fedobp_lib.runs.integrity import FILES
from fedobp_lib.runs.store import folders

SWEEP = [
    sys.executable, "-m", "fedobp_lib", "sweep", "--method", "fedobp", "fedavg", "fedper",
    "--seed", "0", "1", "--clients", "6", "--participation", "0.5", "--local-epochs", "1",
    "--rounds", "16", "--workers", "2",
]  # fmt: skip


def start(home: Path) -> subprocess.Popen[bytes]:
    silent = subprocess.DEVNULL
    environment = os.environ | {
        "FEDOBP_RUNS": str(home), "OMP_NUM_THREADS": "1", "FEDOBP_CHECKPOINT_SECONDS": "0",
    }  # fmt: skip
    return subprocess.Popen(SWEEP, env=environment, stdout=silent, stderr=silent)


def contents(home: Path) -> dict[str, bytes]:
    return {f.name: b"".join((f / name).read_bytes() for name in FILES) for f in folders(home)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        wanted_home, home = Path(temporary) / "undisturbed", Path(temporary) / "killed"
        began = time.monotonic()
        start(wanted_home).wait()
        seconds = time.monotonic() - began
        wanted = contents(wanted_home)
        kills = turns = resumed = differed = 0
        while kills < options.kills:
            shutil.rmtree(home, ignore_errors=True)
            turns += 1
            finished = False
            while not finished:
                process = start(home)
                try:
                    # Up to the whole sweep's time, so that also its end is hit.
                    limit = None if kills == options.kills else draw.uniform(0.5, 0.6 * seconds)
                    finished = process.wait(limit) == 0
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    kills += 1
                    unfinished = [f for f in folders(home) if not (f / "summary.json").exists()]
                    resumed += any((f / "checkpoint.pt").exists() for f in unfinished)
                    print(f"{kills} of {options.kills} kills", file=sys.stderr)
            found = contents(home)
            differed += sum(found.get(name) != content for name, content in wanted.items())
        row = {"turns": turns, "kills": kills, "with_checkpoint": resumed, "differing": differed}
        rows = Rows()
        rows.add(row | made_by(torch.device("cpu")))


if __name__ == "__main__":
    main()
