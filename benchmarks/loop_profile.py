"""Where a step of the loop back-end spends its time: one client, one core, by operation.

    python benchmarks/loop_profile.py > benchmarks/loop_profile.csv

Random images of the data set's size, batch 32, the second fit of two epochs (50 steps each), by
`torch.profiler`. Prints CSV on standard output: the share of each kind of operation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from rows import Rows, made_by
from torch.profiler import ProfilerActivity, profile

from fedobp_lib.data.clients import ClientData
from fedobp_lib.data.partition import Partition
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training import loop
from fedobp_lib.training.loop import LoopBackend
from fedobp_lib.training.trainer import LocalSettings, Trainer

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
SAMPLES = 1600
KINDS = {
    "convolution": "convolutions",
    "mm": "matrix products",
    "pool": "pooling",
    "copy_": "copies between precisions and layouts",
    "sgd": "SGD",
    "threshold": "ReLU",
    "clamp": "ReLU",
    "relu": "ReLU",
}


def shares(size: str, precision: str) -> tuple[dict[str, float], float]:
    """Percent of the time by kind of operation, and milliseconds a step.

    Args:
        size: a key of `SHAPES`.
        precision: `fp32` or `bf16`.
    """
    shape, rng = SHAPES[size], np.random.default_rng(0)
    images = rng.integers(0, 256, (SAMPLES, *shape), dtype=np.uint8)
    split = Partition(np.arange(SAMPLES), np.array([0, SAMPLES]), np.arange(1), np.array([0, 1]))
    half, cpu = np.full(shape[2], 0.5, np.float32), torch.device("cpu")
    data = ClientData(images, rng.integers(0, 10, SAMPLES), split, half, half, 10, cpu, seed=0)
    model = build_model("avgcnn", shape, 10, seed=0)
    layout = ParameterLayout.of(model)
    backend = LoopBackend(model, layout, cpu, precision)
    trainer = Trainer(backend, data, LocalSettings(epochs=2, batch_size=32))
    rows = layout.flatten(model)[None]
    trainer.fit(rows, [0], 1)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        trainer.fit(rows, [0], 1)
    times: Counter[str] = Counter()
    for event in seen.key_averages():
        kind = next((title for word, title in KINDS.items() if word in event.key), "other")
        times[kind] += event.self_cpu_time_total
    total = sum(times.values())
    found = {kind: 100 * time / total for kind, time in times.most_common()}
    return found, total / 1000 / (2 * SAMPLES / 32)


def here(work: Callable[[Any], Any], items: Iterable[Any], _: int) -> list[Any]:
    """In place of threads, which the profiler does not look into."""
    return [work(item) for item in items]


def main() -> None:
    torch.set_num_threads(1)
    loop.map_on_threads = here  # type: ignore[assignment]
    rows = Rows()
    for size in SHAPES:
        for precision in ("fp32", "bf16"):
            found, milliseconds = shares(size, precision)
            for kind, share in found.items():
                rows.add(
                    {
                        "size": size,
                        "precision": precision,
                        "operations": kind,
                        "share": f"{share:.0f}%",
                        "ms_per_step": round(milliseconds, 2),
                    }
                    | made_by(torch.device("cpu"))
                )


if __name__ == "__main__":
    main()
