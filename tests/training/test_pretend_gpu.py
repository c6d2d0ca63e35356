"""The batched back-end on a pretended GPU: recorded, replayed, and equal to the CPU."""

import pytest
import torch
from helpers.literal import tiny_images
from helpers.pretend_gpu import PretendGPU, patch_kit, waits

from fedobp_lib import RunConfig
from fedobp_lib.methods import METHODS, ON_DEVICE, BankPlace
from fedobp_lib.simulation import simulate
from fedobp_lib.training.packing import run_packed
from fedobp_lib.training.tasks import Task

SMALL = {"clients": 6, "participation": 0.5, "rounds": 2, "local_epochs": 2, "min_samples": 4}


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """The kit can use the pretended GPU; one thread, as tensors are tiny."""
    patch_kit(monkeypatch)
    waits.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def simulation_on(device, config, backend="batched", place=ON_DEVICE):
    made = simulate(config, tiny_images(), device=device, backend=backend, place=place)
    if backend == "batched":
        made.trainer.backend.graphs = device != "cpu"
        made.trainer.backend.stack.convolution = "unfolded"
    return made


def run_on(device, config, place=ON_DEVICE):
    made = simulation_on(device, config, place=place)
    made.run(progress=False)
    return made


def difference(ours, reference):
    """The largest relative difference of their states; flags count as numbers."""
    return max(
        float((ours.method.state[name].host.double() - tensor.double()).norm())
        / max(float(tensor.double().norm()), 1e-9)
        for name, tensor in reference.method.state.items()
    )


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_replayed_equals_the_cpu(method):
    config = RunConfig(**SMALL, method=method, batch_size=8, eval_every=2)
    reference = run_on("cpu", config)
    with PretendGPU():
        ours = run_on("meta", config)
    assert difference(ours, reference) < 1e-6
    assert ours.trainer.backend.graphs  # every recording worked
    assert (waits["replays"] > 0) == (method != "majority-class")


@pytest.mark.parametrize(("method", "kind"), [("fedobp", "host"), ("fedspa", "disk")])
def test_rows_that_are_not_on_the_gpu(method, kind, tmp_path):
    """The cohort's are brought there and back; numbers are those of rows that stay there."""
    config = RunConfig(**SMALL, method=method, batch_size=8, eval_every=2)
    with PretendGPU():
        there, ours = run_on("meta", config), run_on("meta", config, BankPlace(kind, tmp_path))
        assert ours.history == there.history
        for name, tensor in there.method.state.items():
            kept = ours.method.state[name]
            rows = kept if isinstance(kept, torch.Tensor) else kept[torch.arange(6)]
            assert rows.device == tensor.device and torch.equal(rows.host, tensor.host)
    assert ours.trainer.backend.graphs


@pytest.mark.parametrize("method", ["fedavg", "fedobp"])
def test_resnet18_replayed_equals_the_cpu(method):
    """Short batches are taken alone, with running statistics of their own."""
    small = {"clients": 2, "participation": 1.0, "rounds": 1, "local_epochs": 2}
    config = RunConfig(**small, method=method, batch_size=40, model="resnet18", eval_after="never")
    reference = run_on("cpu", config)
    with PretendGPU():
        ours = run_on("meta", config)
    assert difference(ours, reference) < 1e-6
    assert ours.trainer.backend.graphs and waits["replays"] > 0


@pytest.mark.parametrize("methods", [("fedobp",) * 3, ("fedala", "fedavg", "fedspa")])
def test_packed_runs_that_end_at_different_rounds(methods):
    """What a run's steps were recorded with outlives it."""
    configs = [
        RunConfig(**(SMALL | {"rounds": 1 + k}), method=method, seed=k, batch_size=8)
        for k, method in enumerate(reversed(methods))
    ]
    alone = [run_on("cpu", config) for config in configs]
    with PretendGPU():
        backend = simulation_on("meta", configs[0]).trainer.backend

    def work(config):
        def one(seat):
            # To the end of this thread: whoever leaves a pack may have to serve the others.
            PretendGPU().__enter__()
            made = simulation_on("meta", config, seat)
            made.run(progress=False)
            return made

        return one

    packed = run_packed(backend, [work(config) for config in configs])
    for ours, reference in zip(packed, alone, strict=True):
        assert difference(ours, reference) < 1e-6
    assert backend.graphs and waits["replays"] > 0


class Faulty(Task):
    """A task with something in its step that a GPU does not forgive."""

    def __init__(self, variables, fault):
        super().__init__(variables)
        self.fault = fault

    def direction(self, variables, given, phase, gradient, draw):
        if self.fault == "waits":
            return gradient(variables) * variables.abs().max().item()
        return gradient(variables) * torch.ones(variables.shape[1])


def test_a_step_that_waits_for_the_host_is_not_recorded(capsys):
    config = RunConfig(**SMALL, method="fedavg", batch_size=8)
    with PretendGPU():
        made = simulation_on("meta", config)
        rows = made.method.global_params.repeat(3, 1)
        made.trainer.fit(Faulty(rows, "waits"), [0, 1, 2], 1)
        assert not made.trainer.backend.graphs
    assert "waits for the host in a recorded step" in capsys.readouterr().err


def test_a_constant_on_the_cpu_is_refused():
    with PretendGPU():
        made = simulation_on("meta", RunConfig(**SMALL, method="fedavg", batch_size=8))
        rows = made.method.global_params.repeat(3, 1)
        with pytest.raises(RuntimeError, match="two devices"):
            made.trainer.fit(Faulty(rows, "constant"), [0, 1, 2], 1)


def test_a_replay_that_reads_freed_memory_is_refused():
    class Scaled(Task):
        def direction(self, variables, given, phase, gradient, draw):
            return gradient(variables) * held[0]

    with PretendGPU():
        made = simulation_on("meta", RunConfig(**SMALL, method="fedavg", batch_size=8))
        rows = made.method.global_params.repeat(3, 1)
        held = [torch.ones(1, device="meta")]
        made.trainer.fit(Scaled(rows), [0, 1, 2], 1)
        held[0] = torch.ones(1, device="meta")
        with pytest.raises(RuntimeError, match="memory that was freed"):
            made.trainer.fit(Scaled(rows), [0, 1, 2], 2)


def test_answers_are_put_in_order_without_a_wait():
    with PretendGPU():
        made = simulation_on("meta", RunConfig(**SMALL, method="fedavg", batch_size=8))
        rows = made.method.global_params.repeat(3, 1)
        waits.clear()
        made.trainer.gradient(rows, [0, 1, 2])
        made.trainer.features(rows, [0, 1, 2])
        assert not set(waits) - {"aten._to_copy.default"}  # what is sent there, without waiting
