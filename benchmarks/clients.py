"""Time and memory of a round as the clients become more, with their rows in each place.

    python benchmarks/clients.py > benchmarks/clients.csv

FedOBP with AvgCNN on MNIST; every client has 10 training and 4 test images in all sizes and 10
clients take part in a round, so a round is the same work. Of MNIST's 70,000 images 5,000 clients
can have so many; 10,000 clients have random images of that size. Each pair of a place and a number
of clients is a process of its own. Those of a place take turns, a few rounds each, together with
100 clients on the device, whose median round is `ratio` 1. A round merges, trains, averages, and
tests its cohort; all clients are never tested.

`peak_gib` is the most that the process had (`ru_maxrss`) beyond what it had after PyTorch and the
data set were loaded. `took_part`: so many different clients have rows of their own at the end.
`checkpoint_seconds` is the median time to write one, after each turn. On the device a size is left
out where all rows do not fit into two thirds of the free memory. Prints CSV on standard output.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from rows import Rows, made_by

from fedobp_lib import RunConfig
from fedobp_lib.data.clients import sample_cohort
from fedobp_lib.data.images import ImageData
from fedobp_lib.data.partition import Partition
from fedobp_lib.methods import PLACES, BankPlace
from fedobp_lib.runs.bank_choice import bank_bytes, free_memory
from fedobp_lib.runs.checkpoints import Checkpoint
from fedobp_lib.runs.store import load_data
from fedobp_lib.simulation import simulate

COHORT, TRAIN, TEST = 10, 10, 4
REFERENCE = ("device", 100)


def images_for(clients: int) -> ImageData:
    """MNIST, or as many random images of its size as so many clients need."""
    real, needed = load_data("mnist"), clients * (TRAIN + TEST)
    if needed <= len(real):
        return real
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (needed, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 10, needed)
    return ImageData("random", images, labels, np.ones(needed, bool), 10, "random")


def split(labels: np.ndarray, clients: int) -> Partition:
    """Every client has as many images, of one class or two."""
    rng = np.random.default_rng(0)
    each = TRAIN + TEST
    sorted_ = np.argsort(labels, kind="stable")[: len(labels) // each * each].reshape(-1, each)
    own = rng.permuted(rng.permutation(sorted_)[:clients], axis=1)
    train, test = own[:, :TRAIN], own[:, TRAIN:]
    return Partition(
        train.ravel(), TRAIN * np.arange(clients + 1), test.ravel(), TEST * np.arange(clients + 1)
    )


def config_of(clients: int) -> RunConfig:
    return RunConfig(
        method="fedobp", dataset="mnist", clients=clients, participation=COHORT / clients,
        rounds=10**6, eval_every=10**6,
    )  # fmt: skip


def work(place: str, clients: int, folder: Path) -> None:
    """Take as many rounds as each line of standard input says, and answer with their seconds."""
    data = images_for(clients)
    data.on(torch.device("cpu"))
    before = psutil.Process().memory_info().rss
    where = BankPlace(place, folder)
    partition = split(data.labels, clients)
    simulation = simulate(config_of(clients), data, partition=partition, place=where)
    checkpoint = Checkpoint(folder / "checkpoint.pt", seconds=0)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            simulation.step()
            seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        checkpoint.save(simulation)
        simulation.commit_state()
        saving = time.perf_counter() - began
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps({"seconds": seconds, "saving": saving, "peak": peak}), flush=True)


class Worker:
    """A process that takes rounds when it is told to."""

    def __init__(self, place: str, clients: int, folder: Path) -> None:
        self.place, self.clients = place, clients
        self.seconds: list[float] = []
        self.saving: list[float] = []
        self.peak = 0
        folder.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--work", place, str(clients), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def take(self, rounds: int, count: bool = True) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{rounds}\n")
        self._process.stdin.flush()
        told = json.loads(self._process.stdout.readline())
        self.peak = told["peak"]
        if count:
            self.seconds += told["seconds"]
            self.saving.append(told["saving"])

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def compare(place: str, sizes: list[int], turns: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each number of clients whose rows are in one place."""
    device = torch.device("cpu")
    if place == "device":
        room = free_memory() * 2 / 3
        sizes = [n for n in sizes if bank_bytes(config_of(n).resolved()) <= room]
    pairs = list(dict.fromkeys([REFERENCE, *((place, clients) for clients in sizes)]))
    with tempfile.TemporaryDirectory() as folder:
        workers = [Worker(*pair, Path(folder) / str(k)) for k, pair in enumerate(pairs)]
        for worker in workers:
            worker.take(2, count=False)  # warms up
        for turn in range(turns):
            for worker in workers:
                worker.take(rounds)
            print(f"{place}: turn {turn + 1} of {turns}", file=sys.stderr)
        for worker in workers:
            worker.end()
    unit = median(workers[0].seconds)
    found = []
    for worker in workers if place == REFERENCE[0] else workers[1:]:
        done = 2 + turns * rounds
        cohorts = [sample_cohort(0, n + 1, worker.clients, COHORT) for n in range(done)]
        images = "random" if worker.clients * (TRAIN + TEST) > len(load_data("mnist")) else "mnist"
        found.append({
            "bank": worker.place,
            "clients": worker.clients,
            "images": images,
            "rounds": len(worker.seconds),
            "took_part": len(np.unique(np.concatenate(cohorts))),
            "seconds_per_round": round(median(worker.seconds), 3),
            "ratio": round(median(worker.seconds) / unit, 2),
            "peak_gib": round(worker.peak / 2**30, 2),
            "all_rows_gib": round(bank_bytes(config_of(worker.clients).resolved()) / 2**30, 2),
            "checkpoint_seconds": round(median(worker.saving), 2),
            **made_by(device),
        })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 1000, 5000, 10_000])
    parser.add_argument("--banks", nargs="+", default=list(PLACES), choices=PLACES)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=8, help="of a turn")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        place, clients, folder = options.work
        work(place, int(clients), Path(folder))
        return
    rows = Rows()
    for place in options.banks:
        for row in compare(place, options.clients, options.turns, options.rounds):
            rows.add(row)


if __name__ == "__main__":
    main()
