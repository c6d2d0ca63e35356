"""The batched back-end against the loop: every kind of task, unequal clients, packed runs."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.literal import CLASSES, SHAPE, tiny_images
from helpers.trainers import make_trainer

from fedobp_lib import RunConfig, grid, run, run_all
from fedobp_lib.data.clients import ClientData
from fedobp_lib.data.datasets import load
from fedobp_lib.data.partition import Partition
from fedobp_lib.methods import METHODS
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.runs.packs import packs, shared_backend
from fedobp_lib.simulation import simulate
from fedobp_lib.training.backends import make_backend
from fedobp_lib.training.batched import KEPT_MEMORIES, BatchedBackend
from fedobp_lib.training.convolutions import CONVOLUTIONS
from fedobp_lib.training.packing import run_packed
from fedobp_lib.training.tasks import Task
from fedobp_lib.training.trainer import LocalSettings, Trainer


def unequal_clients(*counts: int) -> ClientData:
    """Clients with these numbers of training samples and one test sample in ten."""
    rng = np.random.default_rng(0)
    train, test = [], []
    start = 0
    for count in counts:
        extra = -(-count // 10)
        train.append(np.arange(start, start + count))
        test.append(np.arange(start + count, start + count + extra))
        start += count + extra
    images = rng.integers(0, 256, (start, 28, 28, 1), dtype=np.uint8)
    offsets = [np.cumsum([0, *map(len, parts)]) for parts in (train, test)]
    split = Partition(np.concatenate(train), offsets[0], np.concatenate(test), offsets[1])
    one = np.ones(1, np.float32)
    labels = rng.integers(0, 3, start)
    return ClientData(images, labels, split, one / 2, one / 4, 3, torch.device("cpu"), seed=1)


def close(ours: torch.Tensor, reference: torch.Tensor) -> bool:
    """Within 1e-4, relative to the size of the vector; of flags, one in a thousand may differ."""
    if ours.dtype == torch.bool:
        return bool((ours != reference).double().mean() <= 1e-3)
    return bool((ours - reference).norm() <= 1e-4 * reference.norm())


class HeadThenBody(Task):
    """Freezes columns in some epochs."""

    def __init__(self, variables, head):
        super().__init__(variables)
        self.head = head

    def phase(self, epoch, epochs):
        return "head" if epoch < epochs - 1 else "body"

    def mask(self, given, phase):
        return self.head if phase == "head" else ~self.head


class Proximal(Task):
    """Adds a term to the loss: mu/2 |v - anchor|^2."""

    def direction(self, variables, given, phase, gradient, draw):
        return gradient(variables) + 0.5 * (variables - given["anchor"])


class TwoModels(Task):
    """Trains a second model, and a mixture of both."""

    def direction(self, variables, given, phase, gradient, draw):
        own, shared = variables.tensor_split(2, dim=1)
        mixed = 0.25 * own + 0.75 * shared
        return torch.cat([0.25 * gradient(mixed), gradient(shared)], dim=1)


class MixingWeights(Task):
    """Learns a weight in [0, 1] for every parameter."""

    def direction(self, variables, given, phase, gradient, draw):
        step = given["global"] - given["local"]
        return 5 * gradient(given["local"] + variables * step) * step

    def project(self, variables, given):
        variables.clamp_(0, 1)


class EndPoints(Task):
    """Draws a random point between two models in every step."""

    draws = 1

    def direction(self, variables, given, phase, gradient, draw):
        one, two = variables.tensor_split(2, dim=1)
        there = gradient(draw * one + (1 - draw) * two)
        return torch.cat([draw * there, (1 - draw) * there], dim=1)


class Sparse(Task):
    """Trains under a mask of each client's own."""

    def mask(self, given, phase):
        return given["mask"]


def make_tasks(layout: ParameterLayout, clients: int) -> dict[str, Task]:
    rows = torch.stack(
        [layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=s)) for s in range(clients)]
    )
    other = rows.flip(0).contiguous()
    head = torch.zeros(layout.size, dtype=torch.bool)
    head[layout.layers["classifier"]] = True
    mask = torch.rand(rows.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    return {
        "plain": Task(rows),
        "freezes": HeadThenBody(rows, head),
        "loss term": Proximal(rows, anchor=other),
        "second model": TwoModels(torch.cat([rows, other], 1)),
        "weights": MixingWeights(torch.full_like(rows, 0.5), **{"global": rows, "local": other}),
        "end points": EndPoints(torch.cat([rows, other], 1)),
        "sparse": Sparse(rows, mask=mask),
    }


@pytest.mark.parametrize("kind", make_tasks(make_trainer(unequal_clients(9)).layout, 1))
def test_every_kind_of_task_equals_the_loop(kind):
    """One client fills less than a batch, one has no short batch, one has a very short one."""
    data = unequal_clients(5, 33, 16, 24)
    loop, batched = make_trainer(data, "loop", lr=0.05), make_trainer(data, "batched", lr=0.05)
    task = make_tasks(loop.layout, 4)[kind]
    before = task.variables.clone()
    reference = loop.fit(task, range(4), 1)
    ours = batched.fit(task, range(4), 1)
    assert torch.equal(task.variables, before) and not torch.equal(reference, before)
    for k in range(4):
        assert close(ours[k] - before[k], reference[k] - before[k])
    if kind != "plain":
        plain = loop.fit(Task(task.variables[:, : loop.layout.size]), range(4), 1)
        assert not close(reference[:, : loop.layout.size], plain)


def test_frozen_columns_keep_their_bits_and_their_momentum():
    """Body epochs begin without the momentum that the head has gathered."""
    data = unequal_clients(24)
    for backend in ("loop", "batched"):
        trainer = make_trainer(data, backend, epochs=1)
        task = make_tasks(trainer.layout, 1)["freezes"]
        assert task.phase(0, 1) == "body"
        trained = trainer.fit(task, [0], 1)
        assert torch.equal(trained[:, task.head], task.variables[:, task.head])
        assert not torch.equal(trained[:, ~task.head], task.variables[:, ~task.head])


def test_very_unequal_clients():
    """A small learning rate, as 94 steps on noise make chaos of rounding."""
    data = unequal_clients(3000, 10)
    settings = {"epochs": 1, "batch_size": 32, "lr": 1e-3}
    loop, batched = (make_trainer(data, name, **settings) for name in ("loop", "batched"))
    rows = make_tasks(loop.layout, 2)["plain"].variables
    for ours, reference in zip(
        batched.fit(rows, [1, 0], 3), loop.fit(rows, [1, 0], 3), strict=True
    ):
        assert close(ours, reference)


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
@pytest.mark.parametrize("model", ["avgcnn", "resnet18"])
def test_both_convolutions_equal_the_loop(model, convolution):
    """Batch normalization sees the short batch as it is, not filled up.

    One step each, of 8 and of 5 samples: the statistics of so few samples make chaos of rounding
    within two steps.
    """
    data = unequal_clients(9, 5)
    net = build_model(model, (28, 28, 1), 3, seed=0)
    layout = ParameterLayout.of(net)
    backend = BatchedBackend(net, layout, data.device, convolution=convolution)
    settings = LocalSettings(epochs=1, batch_size=8)
    rows = layout.flatten(net).repeat(2, 1)
    loop = Trainer(make_backend("loop", net, layout, data.device), data, settings)
    reference = loop.fit(rows, [0, 1], 1)
    ours = Trainer(backend, data, settings).fit(rows, [0, 1], 1)
    for k in range(2):
        assert close(ours[k], reference[k]) and not close(reference[k], rows[k])


SMALL = {"clients": 6, "participation": 0.5, "rounds": 2, "local_epochs": 1, "min_samples": 4}


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_equals_the_loop(method):
    config = RunConfig(**SMALL, method=method, batch_size=8, eval_every=2)
    ours, reference = (simulate(config, tiny_images(), backend=b) for b in ("batched", "loop"))
    for simulation in (ours, reference):
        simulation.run(progress=False)
    assert ours.method.state.keys() == reference.method.state.keys()
    for name, tensor in reference.method.state.items():
        assert close(ours.method.state[name], tensor)
    columns = ["round", "stage", "scope", "average"]
    ours, reference = ours.history_frame(), reference.history_frame()
    assert ours[columns].equals(reference[columns])
    np.testing.assert_allclose(ours["accuracy"], reference["accuracy"], atol=3.0)
    np.testing.assert_allclose(ours["loss"], reference["loss"], rtol=1e-3)


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_with_resnet18_equals_the_loop(method):
    """As near as rounding allows: batch normalization over few samples makes much of it.

    So a method whose result moves further when its initial weights change in the last bit may
    differ by as much: FedSelect and FedSpa, which rank parameters, and pFedFDA, which inverts a
    covariance.
    """
    config = RunConfig(
        clients=2, participation=1.0, rounds=1, local_epochs=1, method=method, batch_size=64,
        model="resnet18", eval_after="never",
    )  # fmt: skip

    def state_after(backend, last_bits=0.0, seed=0):
        made = simulate(config, tiny_images(), device="cpu", backend=backend)
        if backend == "batched":
            made.trainer.backend.stack.convolution = "each"
        weights = made.method.state["global"]
        noise = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed))
        weights.mul_(1 + last_bits * noise)
        made.run(progress=False)
        return made.method.state

    def difference(ours, reference):
        return max(
            float((ours[name] != tensor).double().mean())
            if tensor.dtype == torch.bool
            else float((ours[name].double() - tensor.double()).norm())
            / max(float(tensor.double().norm()), 1e-9)
            for name, tensor in reference.items()
        )

    reference = state_after("loop")
    found = difference(state_after("batched"), reference)
    if method in ("fedselect", "fedspa", "pfedfda"):
        moved = [difference(state_after("loop", 6e-8, seed), reference) for seed in range(3)]
        assert found < 3 * max(moved)
    else:
        assert found < 1e-4


def test_packed_runs_equal_runs_alone(monkeypatch):
    """Seeds, alphas, quantiles, learning rates and methods in one batch."""
    configs = [
        RunConfig(**SMALL, seed=0),
        RunConfig(**SMALL, seed=1, alpha=0.5),
        RunConfig(**SMALL, settings={"quantile": 0.9}, lr=0.02),
        RunConfig(**(SMALL | {"rounds": 1}), method="fedavg", momentum=0.0),
    ]
    data, device = tiny_images(), torch.device("cpu")
    alone = [simulate(c, data, backend="batched") for c in configs]
    for simulation in alone:
        simulation.run(progress=False)
    backend = BatchedBackend(
        build_model("avgcnn", SHAPE, CLASSES, 0), alone[0].layout, device, convolution="grouped"
    )
    sizes = []
    fit = backend._fit_alike
    monkeypatch.setattr(backend, "_fit_alike", lambda jobs: sizes.append(len(jobs)) or fit(jobs))

    def work(config):
        def one(seat):
            simulation = simulate(config, data, backend=seat)
            simulation.run(progress=False)
            return simulation

        return one

    packed = run_packed(backend, [work(config) for config in configs])
    assert max(sizes) == 4
    for ours, reference in zip(packed, alone, strict=True):
        for name, tensor in reference.method.state.items():
            assert close(ours.method.state[name], tensor)


def test_memory_of_the_latest_kinds_of_task_is_kept_and_their_tensors_outlive_them():
    data = unequal_clients(20, 12)
    trainer = make_trainer(data, "batched")
    kinds = trainer.backend._memories
    rows = trainer.layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=0)).repeat(2, 1)
    head = torch.arange(rows.shape[1]) > rows.shape[1] - 10
    expected = trainer.fit(HeadThenBody(rows, head.clone()), [0, 1], 1)
    kept = kinds[0]
    read = kept.task.head  # what steps recorded as a graph would go on reading
    trainer.fit(rows, [0, 1], 1)
    for count in (1, 2):
        assert torch.equal(trainer.fit(HeadThenBody(rows, head.clone()), [0, 1], 1), expected)
        assert kinds[0] is kept and kept.task.head is read
        trainer.fit(rows[:count], range(count), 1)
    assert len(kinds) == 3
    for width in range(KEPT_MEMORIES):
        trainer.fit(HeadThenBody(rows, head.roll(width + 1)), [0, 1], 1)
    assert kept not in kinds and len(kinds) == KEPT_MEMORIES


def test_a_sweep_packs_what_fits_together(tmp_path, monkeypatch):
    configs = grid("smoke", methods=["fedavg", "fedobp"], seeds=[0, 1], rounds=2)
    assert [len(group) for group in packs([*configs, RunConfig(batch_size=16)], 3)] == [3, 1, 1]
    packed = run_all(configs, progress=False, pack=3)
    monkeypatch.setenv("FEDOBP_RUNS", str(tmp_path / "alone"))
    for ours, config in zip(packed, configs, strict=True):
        assert ours.config.seed == config.seed
        pd.testing.assert_frame_equal(ours.history, run(config).history)


def test_a_fault_in_one_of_several_runs_leaves_the_others_alone():
    backend = shared_backend(RunConfig(), torch.device("cpu"))
    ended = []

    def fails(seat):
        raise ZeroDivisionError

    def works(seat):
        config = RunConfig(clients=6, participation=0.5, rounds=1, local_epochs=1)
        simulate(config, load("digits"), backend=seat).run(progress=False)
        ended.append(1)

    with pytest.raises(ZeroDivisionError):
        run_packed(backend, [works, fails, works])
    assert ended == [1, 1]
