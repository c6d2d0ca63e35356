"""The parts of `gpu.py`, each a list of cases and what to measure of each.

- `correctness`: every method on a tiny federation of learnable images, on the device by the
  batched back-end and on the CPU by the loop, both in fp32. `difference` is the largest of the
  state's tensors: relative for numbers, the share that differs for flags. `rounding` is that of the
  CPU beside itself when the weights it begins from change in their last bit: how far a method
  carries rounding. `agrees` is at most 10 times that, or 1e-4.
- `graphs`: seconds of a round with CUDA graphs and without, in turns; `difference` of the two.
- `precision`: accuracy after 50 rounds of FedOBP on MNIST, or where that is not here on a stand-in
  (`data` says which); two seeds of fp32 show what a difference means.
- `speed`: seconds of 400 rounds of FedOBP at CIFAR-10's size (random images), a run alone and in
  packs, from the rounds that fit into a few seconds after the first ones. Steps of new kinds are
  still recorded in them, so it is on the long side. Without the tests of all clients.
- `resnet18`: the same with ResNet-18.

`estimated_gib` is what `fedobp_lib.runs.packs` expects; `allocated` and `reserved` are the peaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fedobp_lib import RunConfig
from fedobp_lib.data.datasets import is_here
from fedobp_lib.data.images import ImageData
from fedobp_lib.methods import METHODS
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.runs.packs import run_bytes
from fedobp_lib.runs.store import load_data
from fedobp_lib.simulation import Simulation, simulate
from fedobp_lib.training import gpu
from fedobp_lib.training.batched import BatchedBackend
from fedobp_lib.training.packing import run_packed
from fedobp_lib.training.trainer import Backend

Case = tuple[dict[str, Any], Callable[[], dict[str, Any]]]
GIB = 2**30


@dataclass(frozen=True)
class Scale:
    """How much is asked of the device."""

    images: dict[str, int]  # of each size of image
    shape: dict[str, tuple[int, int, int]]
    federation: dict[str, Any] = field(default_factory=dict)  # fields of a run
    packs: tuple[int, ...] = (1, 4, 8, 16)
    resnet_packs: tuple[int, ...] = (1, 4)
    accuracy_rounds: int = 50
    warm: int = 4  # rounds before those that are timed
    least: int = 3  # rounds that are timed in any case
    seconds: float = 10.0  # of timed rounds
    convolution: str | None = None

    @classmethod
    def of(cls, tiny: bool) -> Scale:
        if not tiny:
            sizes = {"mnist": 70_000, "cifar10": 60_000}
            return cls(sizes, {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)})
        return cls(
            images={"mnist": 120, "cifar10": 120},
            shape={"mnist": (16, 16, 1), "cifar10": (16, 16, 3)},
            federation={"clients": 6, "participation": 0.5, "local_epochs": 1, "min_samples": 4},
            packs=(1, 2),
            resnet_packs=(1, 2),
            accuracy_rounds=2,
            warm=1,
            least=1,
            seconds=0.0,
            convolution="unfolded",
        )

    def config(self, dataset: str, **fields: Any) -> RunConfig:
        """A run that is never tested on all clients before its last round."""
        fields = {"rounds": 400, "eval_every": 400, "eval_after": "never"} | fields
        return RunConfig(dataset=dataset, **(self.federation | fields))


@dataclass(frozen=True)
class Part:
    """A table of measurements.

    Attributes:
        seconds: the most it may take.
        columns: of its table, before `fault` and what made the row.
        cases: what tells a row from others, and a function that measures the rest.
    """

    seconds: float
    columns: tuple[str, ...]
    cases: Callable[[torch.device, Scale], Iterator[Case]]


def patterns(name: str, count: int, shape: tuple[int, int, int], classes: int = 10) -> ImageData:
    """Images that can be learned: of every class a pattern of its own, below noise.

    Args:
        name: of the data set.
        count: of images.
        shape: (height, width, channels).
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    signs = rng.integers(-40, 41, (classes, *shape), dtype=np.int16)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    for start in range(0, count, 10_000):
        block = slice(start, start + 10_000)
        images[block] = np.clip(images[block] + signs[labels[block]], 0, 255)
    return ImageData(name, images, labels, np.ones(count, bool), classes, name)


def backend_for(
    config: RunConfig,
    data: ImageData,
    device: torch.device,
    graphs: bool | None = None,
    convolution: str | None = None,
) -> BatchedBackend:
    """A batched back-end for runs like `config`."""
    model = build_model(config.model, data.shape, data.classes, 0)
    gpu.prepare(device, config.precision)
    gpu.load_linear_algebra(device)
    return BatchedBackend(
        model, ParameterLayout.of(model), device, config.precision,
        convolution=convolution, graphs=graphs,
    )  # fmt: skip


def difference(ours: Simulation, reference: Simulation) -> float:
    """The largest of what two methods keep: relative, of flags the share that differs."""
    found = []
    for name, tensor in reference.method.state.items():
        expected, got = tensor.cpu(), ours.method.state[name].cpu()
        if expected.dtype == torch.bool:
            found.append(float((got != expected).double().mean()))
        else:
            gap = (got.double() - expected.double()).norm()
            found.append(float(gap) / max(float(expected.double().norm()), 1e-9))
    return float(np.max(found))  # not a number if one of them is none


def correctness(device: torch.device, scale: Scale) -> Iterator[Case]:
    data = patterns("tiny", 200, (16, 16, 1))
    small = {"clients": 6, "participation": 0.5, "rounds": 3, "local_epochs": 2, "min_samples": 4}

    def compare(config: RunConfig) -> dict[str, Any]:
        on_cpu, *moved = (simulate(config, data, "cpu", backend="loop") for _ in range(3))
        for seed, simulation in enumerate(moved):
            size = simulation.layout.size
            noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
            for tensor in simulation.method.state.values():
                if tensor.is_floating_point() and tensor.shape[-1:] == (size,):
                    tensor.mul_(1 + 2**-24 * noise)  # what was equal stays so
        backend = backend_for(config, data, device, convolution=scale.convolution)
        there = simulate(config, data, device, backend=backend)
        for simulation in (on_cpu, *moved, there):
            simulation.run(progress=False)
        found = difference(there, on_cpu)
        rounding = max(difference(simulation, on_cpu) for simulation in moved)
        agrees = found <= max(1e-4, 10 * rounding)  # not so if it is no number
        return {
            "difference": f"{found:.1e}",
            "rounding": f"{rounding:.1e}",
            "graphs": backend.graphs,
            "verdict": "agrees" if agrees else "differs",
        }

    for method in METHODS:
        config = RunConfig(method=method, batch_size=8, **small)
        yield {"model": "avgcnn", "method": method}, lambda c=config: compare(c)
    # More steps would make chaos of rounding, as batches are small for batch normalization.
    few = {"clients": 2, "participation": 1.0, "rounds": 1}
    for method in ("fedavg", "fedobp", "apfl"):
        config = RunConfig(
            method=method, model="resnet18", batch_size=40, local_epochs=1, eval_after="never",
            **few,
        )  # fmt: skip
        yield {"model": "resnet18", "method": method}, lambda c=config: compare(c)


def graphs(device: torch.device, scale: Scale) -> Iterator[Case]:
    data = patterns("stand-in", scale.images["cifar10"], scale.shape["cifar10"])
    ways = (False, True) if device.type == "cuda" else (False,)

    def in_turns(config: RunConfig) -> dict[str, Any]:
        backends = [backend_for(config, data, device, way, scale.convolution) for way in ways]
        made = [simulate(config, data, device, backend=backend) for backend in backends]
        for _ in range(scale.warm):
            for simulation in made:
                simulation.step()
        before = [simulation.seconds["rounds"] for simulation in made]
        began = time.perf_counter()
        rounds = 0
        while rounds < scale.least or time.perf_counter() - began < scale.seconds:
            rounds += 1
            for simulation in made:
                simulation.step()
        each = [
            (simulation.seconds["rounds"] - spent) / rounds
            for simulation, spent in zip(made, before, strict=True)
        ]
        row = {"rounds": rounds, "seconds_per_round_without": round(each[0], 4)}
        if len(ways) == 2:
            row["seconds_per_round_with"] = round(each[1], 4)
            row["ratio"] = round(each[0] / each[1], 2)
            row["recorded"] = backends[1].graphs
            row["difference"] = f"{difference(made[1], made[0]):.1e}"
        return row

    for precision in precisions(device):
        config = scale.config("cifar10", method="fedobp", precision=precision)
        yield {"method": "fedobp", "precision": precision}, lambda c=config: in_turns(c)


def precision(device: torch.device, scale: Scale) -> Iterator[Case]:
    real = not scale.federation and is_here("mnist")
    data = (
        load_data("mnist")
        if real
        else patterns("stand-in", scale.images["mnist"], scale.shape["mnist"])
    )

    def accuracy(config: RunConfig) -> dict[str, Any]:
        backend = backend_for(config, data, device, convolution=scale.convolution)
        simulation = simulate(config, data, device, backend=backend)
        simulation.run(progress=False)
        frame = simulation.history_frame()
        pooled = frame.query("stage == 'before' and scope == 'all' and average == 'pooled'")
        return {"accuracy_before": round(pooled["accuracy"].iloc[-1], 2)}

    rounds = scale.accuracy_rounds
    first, *others = precisions(device)
    for kind, seed in [(first, 0), *((kind, 0) for kind in others), (first, 1)]:
        config = scale.config(
            "mnist", method="fedobp", precision=kind, seed=seed, rounds=rounds, eval_every=rounds
        )
        case = {"data": data.name, "precision": kind, "seed": seed, "rounds": rounds}
        yield case, lambda c=config: accuracy(c)


def speed(device: torch.device, scale: Scale, model: str = "avgcnn") -> Iterator[Case]:
    data = patterns("stand-in", scale.images["cifar10"], scale.shape["cifar10"])
    exact, *rounded = precisions(device)
    packs = scale.packs if model == "avgcnn" else scale.resnet_packs
    cases = [(pack, exact) for pack in packs]
    cases += [(pack, kind) for kind in rounded for pack in packs[::2]]
    for pack, kind in cases:
        config = scale.config("cifar10", method="fedobp", model=model, precision=kind)
        case = {"model": model, "method": "fedobp", "precision": kind, "pack": pack}
        yield case, lambda c=config, p=pack: packed(c, p, data, device, scale)


def resnet18(device: torch.device, scale: Scale) -> Iterator[Case]:
    return speed(device, scale, "resnet18")


def packed(
    config: RunConfig, pack: int, data: ImageData, device: torch.device, scale: Scale
) -> dict[str, Any]:
    """Seconds of runs that differ by their seeds and are computed together, and their memory."""
    gpu.release(device)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    last = [config.resolved(device).rounds]  # round; known as soon as the time is over
    times: list[float] = []

    def clock() -> float:
        if cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def go(seed: int, backend: Backend) -> None:
        simulation = simulate(replace(config, seed=seed), data, device, backend=backend)
        while simulation.round < last[0]:
            simulation.step()
            if seed == 0 and simulation.round >= scale.warm:
                times.append(clock())
                timed = len(times) - 1
                if timed >= scale.least and times[-1] - times[0] >= scale.seconds:
                    # The others wait for this run in every round, so they are not further.
                    last[0] = min(last[0], simulation.round + 1)

    backend = backend_for(config, data, device, convolution=scale.convolution)
    run_packed(backend, [lambda seat, seed=seed: go(seed, seat) for seed in range(pack)])
    rounds = len(times) - 1
    of_pack = 400 * (times[-1] - times[0]) / rounds
    row = {
        "rounds": rounds,
        "seconds_per_400_rounds": round(of_pack, 1),
        "seconds_per_run": round(of_pack / pack, 1),
        "convolution": backend.stack.convolution,
        "graphs": backend.graphs,
        "estimated_gib": round(pack * run_bytes(config.resolved(device), data) / GIB, 2),
    }
    if cuda:
        row["allocated_gib"] = round(torch.cuda.max_memory_allocated(device) / GIB, 2)
        row["reserved_gib"] = round(torch.cuda.max_memory_reserved(device) / GIB, 2)
    return row


def precisions(device: torch.device) -> tuple[str, ...]:
    """fp32 first, then what rounds more."""
    return ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")


_RUN = ("method", "precision")
_SPEED = (
    "model", *_RUN, "pack", "rounds", "seconds_per_400_rounds", "seconds_per_run", "convolution",
    "graphs", "estimated_gib", "allocated_gib", "reserved_gib",
)  # fmt: skip
PARTS = {
    "correctness": Part(
        110, ("model", "method", "difference", "rounding", "graphs", "verdict"), correctness
    ),
    "graphs": Part(
        50,
        (*_RUN, "rounds", "seconds_per_round_without", "seconds_per_round_with", "ratio",
         "recorded", "difference"),
        graphs,
    ),
    "precision": Part(90, ("data", "precision", "seed", "rounds", "accuracy_before"), precision),
    "speed": Part(130, _SPEED, speed),
    "resnet18": Part(85, _SPEED, resnet18),
}  # fmt: skip
