"""Rounds per hour of the kit's loop back-end against a plain PyTorch loop, side by side.

    python benchmarks/loop_speed.py [--rounds 6] [--threads 2] [--precisions fp32 bf16]

Both do the same rounds of FedAvg on random images of MNIST's and CIFAR-10's size: the same
100 clients of a Dirichlet(0.1) split, the same 10 clients a round, 5 local epochs, batch 32.
A round is everything but evaluation. The two take turns round by round, so that a slow phase
of the machine hits both. The plain loop computes in fp32 always. `share` is the kit's rate of
arithmetic over the rate of large matrix products in the same precision, measured right after.
Prints CSV on standard output.
"""

from __future__ import annotations

import argparse
import time
from itertools import product

import numpy as np
import torch
from machine import matrix_rate, step_work
from plain_loop import InMemory, PlainFedAvg
from rows import Rows, made_by

from fedobp_lib.data.clients import ClientData, sample_cohort
from fedobp_lib.data.partition import dirichlet_partition
from fedobp_lib.methods import METHODS, Federation
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training.loop import LoopBackend
from fedobp_lib.training.trainer import LocalSettings, Trainer

SIZES = {"mnist": ((28, 28, 1), 70_000), "cifar10": ((32, 32, 3), 60_000)}


def compare(name: str, rounds: int, method: str, precision: str) -> dict[str, object]:
    """Seconds of each loop for the same rounds."""
    shape, samples = SIZES[name]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (samples, *shape), dtype=np.uint8)
    labels = rng.integers(0, 10, samples)
    partition = dirichlet_partition(labels, 100, 0.1, seed=0)
    mean = np.full(shape[2], 0.5, np.float32)
    std = np.full(shape[2], 0.25, np.float32)

    plain = PlainFedAvg(InMemory(images, labels, mean, std), partition, shape, 10)

    device = torch.device("cpu")
    data = ClientData(images, labels, partition, mean, std, 10, device, seed=0)
    model = build_model("avgcnn", shape, 10, seed=0)
    layout = ParameterLayout.of(model)
    initial = layout.flatten(model)
    trainer = Trainer(LoopBackend(model, layout, device, precision), data, LocalSettings())
    kit = METHODS[method](Federation(initial, layout, data, trainer))

    seconds = {"plain": [], "kit": []}
    steps = 0
    for number in range(rounds + 1):
        cohort = sample_cohort(0, number, 100, 10)
        began = time.perf_counter()
        plain.round(cohort)
        middle = time.perf_counter()
        clients = torch.from_numpy(cohort)
        kit.round = number
        start, _ = kit.start(clients)
        kit.finish(clients, start, kit.train(start, clients))
        ended = time.perf_counter()
        if number:  # the first round warms both up
            seconds["plain"].append(middle - began)
            seconds["kit"].append(ended - middle)
            steps += 5 * sum(-(-len(partition.train(c)) // 32) for c in cohort)
    total = {k: sum(v) for k, v in seconds.items()}
    reached = steps * step_work("avgcnn", shape)[0] / total["kit"]
    possible = matrix_rate(device, precision, torch.get_num_threads())
    made = made_by(device)
    return {
        "size": name,
        "precision": precision,
        "method": method,
        "rounds": rounds,
        "steps": steps,
        "plain_ms_per_step": round(1e3 * total["plain"] / steps, 2),
        "kit_ms_per_step": round(1e3 * total["kit"] / steps, 2),
        "ratio": round(total["plain"] / total["kit"], 2),
        "ratio_least": round(min(p / k for p, k in zip(*seconds.values(), strict=True)), 2),
        "ratio_most": round(max(p / k for p, k in zip(*seconds.values(), strict=True)), 2),
        "kit_gflops": round(reached / 1e9),
        "matrix_product_gflops": round(possible / 1e9),
        "share": f"{reached / possible:.0%}",
        **made,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--method", default="fedobp", help="what the kit runs")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = Rows()
    for name, precision in product(options.sizes, options.precisions):
        row = compare(name, options.rounds, options.method, precision)
        rows.add(row)


if __name__ == "__main__":
    main()
