"""How fast each back-end trains: K clients at a time, sizes, models, precisions.

    python benchmarks/backends.py > benchmarks/backends.csv        # everything this device can
    python benchmarks/backends.py --sizes mnist --cohorts 10 --seconds 20

K clients with 450 samples each (the mean of CIFAR-10 with 100 clients and a quarter for
testing) train for whole epochs, random images, batch 32, plain SGD with momentum, until
`--seconds` are over; a first epoch warms up. Each row is measured in a process of its own,
which makes the peak of memory its own too: on a GPU what tensors took, on a CPU the process's
resident memory. `seconds_per_400_rounds` is extrapolated: 5 epochs, 10 clients a round, as many
rounds at a time as K has tens; without merging, scoring and evaluation.

The floor of a step is the larger of its arithmetic over the machine's matrix-product rate and
its bytes over the machine's copy rate, both measured in the same process; `share` is the floor
over the measured time. Prints CSV on standard output.
"""

from __future__ import annotations

import argparse
import csv
import io
import resource
import subprocess
import sys
import time
from itertools import product

import numpy as np
import torch
from machine import copy_rate, matrix_rate, step_work
from rows import Rows, made_by

from fedobp_lib.data.clients import ClientData
from fedobp_lib.data.partition import Partition
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training.backends import choose_device, make_backend
from fedobp_lib.training.trainer import LocalSettings, Trainer

SIZES = {
    "mnist": ("avgcnn", (28, 28, 1)),
    "cifar10": ("avgcnn", (32, 32, 3)),
    "resnet18": ("resnet18", (32, 32, 3)),
}
SAMPLES, BATCH = 450, 32
STEPS = -(-SAMPLES // BATCH)


def measure(
    size: str, backend: str, clients: int, precision: str, device: torch.device, seconds: float
) -> dict[str, object]:
    """One row of the table."""
    name, shape = SIZES[size]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (clients * SAMPLES, *shape), dtype=np.uint8)
    labels = rng.integers(0, 10, len(images))
    offsets = np.arange(clients + 1) * SAMPLES
    everything = np.arange(len(images))
    split = Partition(everything, offsets, everything[:clients], np.arange(clients + 1))
    mean, std = np.full(shape[2], 0.5, np.float32), np.full(shape[2], 0.25, np.float32)
    data = ClientData(images, labels, split, mean, std, 10, device, seed=0)
    model = build_model(name, shape, 10, seed=0)
    layout = ParameterLayout.of(model)
    computes = make_backend(backend, model, layout, device, precision)
    trainer = Trainer(computes, data, LocalSettings(epochs=1, batch_size=BATCH))
    rows = layout.flatten(model).to(device).repeat(clients, 1)

    def epoch(number: int) -> None:
        trainer.fit(rows, range(clients), number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    epoch(0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    epochs, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        epochs += 1
        epoch(epochs)
    per_step = (time.perf_counter() - began) / (epochs * STEPS * clients)
    peak = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    flop, moved = step_work(name, shape, BATCH)
    rate = matrix_rate(device, precision, torch.get_num_threads())
    floor = max(flop / rate, moved / copy_rate(device))
    made = made_by(device)
    return {
        "size": size,
        "backend": backend,
        "clients": clients,
        "precision": precision,
        "client_steps_per_second": round(1 / per_step, 1),
        "rounds_per_second": round(1 / (per_step * STEPS * 5 * 10), 4),
        "seconds_per_400_rounds": round(400 * per_step * STEPS * 5 * 10, 1),
        "peak_memory_gib": round(peak / 2**30, 2),
        "matrix_product_tflops": round(rate / 1e12, 3),
        "floor_ms": round(1e3 * floor, 3),
        "share": f"{floor / per_step:.0%}",
        "convolution": getattr(computes, "convolution", None) or "",
        **made,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--backends", nargs="+", default=["loop", "batched"])
    parser.add_argument("--cohorts", nargs="+", type=int, default=[1, 10, 40])
    parser.add_argument("--precisions", nargs="+", help="default: all that the device has")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = choose_device(options.device)
    gpu = device.type == "cuda"
    precisions = options.precisions or (["fp32", "tf32", "bf16"] if gpu else ["fp32", "bf16"])
    grid = list(product(options.sizes, precisions, options.backends, options.cohorts))
    if options.row:
        [(size, precision, backend, clients)] = grid
        row = measure(size, backend, clients, precision, device, options.seconds)
        Rows().add(row)
        return
    rows = Rows()
    for number, (size, precision, backend, clients) in enumerate(grid, 1):
        print(f"{number}/{len(grid)}: {size} {precision} {backend} K={clients}", file=sys.stderr)
        command = [
            sys.executable, __file__, "--row", "--device", options.device,
            "--seconds", str(options.seconds), "--sizes", size, "--precisions", precision,
            "--backends", backend, "--cohorts", str(clients),
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"  failed with exit code {done.returncode}; left out", file=sys.stderr)
            continue
        [row] = csv.DictReader(io.StringIO(done.stdout))
        rows.add(row)


if __name__ == "__main__":
    main()
