"""Which runs go together, how many fit into memory, and what happens if they do not."""

import pandas as pd
import pytest
import torch
from helpers.literal import tiny_images

from fedobp_lib import RunConfig, grid, run, run_all
from fedobp_lib.errors import SweepFailed
from fedobp_lib.methods import METHODS
from fedobp_lib.runs import computing
from fedobp_lib.runs import packs as module
from fedobp_lib.runs.packs import fitting, packs, run_bytes, shared_backend
from fedobp_lib.simulation import Simulation, simulate

GPU = torch.device("cuda")


def runs(*names, **fields):
    """Runs of methods, told apart by their seeds."""
    return [RunConfig(method=name, seed=seed, **fields) for seed, name in enumerate(names)]


def named(groups):
    return [[config.method for config in group] for group in groups]


def test_runs_of_one_method_go_together_first():
    mixed = runs("fedobp", "fedavg", "fedobp", "fedavg", "fedobp", "fedavg")
    assert named(packs(mixed, 2)) == [["fedobp"] * 2, ["fedavg"] * 2, ["fedobp", "fedavg"]]
    assert packs(mixed, 1) == [[config] for config in mixed]


def test_only_methods_that_take_the_same_steps_share_a_pack():
    left = runs("fedobp", "apfl", "fedavg", "fedspa", "apfl")
    assert named(packs(left, 8)) == [["fedobp", "fedavg"], ["apfl", "apfl"], ["fedspa"]]
    other = [*runs("fedobp"), *runs("fedobp", batch_size=16)]
    assert len(packs(other, 8)) == 2


def test_each_method_has_as_many_as_fit():
    sizes = {"fedobp": 2, "fedavg": 3}
    mixed = runs(*["fedobp"] * 3, *["fedavg"] * 5)
    groups = packs(mixed, lambda config: sizes[config.method])
    assert named(groups) == [["fedobp"] * 2, ["fedobp", "fedavg"], ["fedavg"] * 3, ["fedavg"]]
    assert sorted(config.seed for group in groups for config in group) == list(range(8))


@pytest.mark.parametrize("method", list(METHODS))
def test_what_a_method_keeps_is_counted_to_the_byte(method):
    """By how much an estimate grows with the clients, against the tensors of a real run."""
    data, estimated, real = tiny_images(), [], []
    for clients in (4, 9):
        config = RunConfig(
            method=method, clients=clients, participation=1 / clients, min_samples=2, rounds=1
        )
        estimated.append(run_bytes(config.resolved(), data))
        state = simulate(config, data).method.state
        real.append(sum(tensor.nbytes for tensor in state.values()))
    assert estimated[1] - estimated[0] == real[1] - real[0]
    assert estimated[0] > real[0]


def test_as_many_runs_as_memory_holds(monkeypatch):
    monkeypatch.setattr(module, "load_data", lambda name: tiny_images())
    config = RunConfig(clients=20, participation=0.2)
    each = run_bytes(config.resolved(), tiny_images())
    for free, most in ((0.1, 1), (5.0, 4), (12.6, 10), (1000.0, 16)):
        there = int(free * each) + tiny_images().images.nbytes
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, there=there: (there, 0))
        assert fitting(GPU)(config) == most
        assert fitting(GPU)(RunConfig(clients=200, participation=0.2)) <= most
    there = int(12.6 * each) + tiny_images().images.nbytes
    for part, most in ((0.5, 10), (0.25, 5), (1.0, 10)):  # of twice the memory that is free
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (there, 2 * there))
        assert fitting(GPU, share=part)(config) in (most, most - 1)


class Full:
    """The loop back-end on a device that holds so many rows; what it was asked is in `asked`."""

    def __init__(self, config, device, asked, rows):
        self.real = shared_backend(config, device)
        self.layout, self.asked, self.rows = self.real.layout, asked, rows

    def fit(self, jobs):
        self.asked.append(sum(len(job.clients) for job in jobs))
        if self.asked[-1] > self.rows(len(self.asked)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.real.fit(jobs)

    def __getattr__(self, name):
        return getattr(self.real, name)


def full(monkeypatch, rows):
    asked = []
    monkeypatch.setattr(
        computing, "shared_backend", lambda config, device: Full(config, device, asked, rows)
    )
    return asked


SMALL = {"clients": 10, "participation": 0.3, "local_epochs": 1, "eval_after": "never"}


def small(seed, rounds=2, **fields):
    return RunConfig(**SMALL, seed=seed, rounds=rounds, **fields)


def same_as_alone(results, configs, monkeypatch, folder):
    monkeypatch.setenv("FEDOBP_RUNS", str(folder))
    for ours, config in zip(results, configs, strict=True):
        pd.testing.assert_frame_equal(ours.history, run(config).history)


def test_a_pack_that_does_not_fit_is_halved(tmp_path, monkeypatch, capsys):
    """Cohorts of three; seven rows fit. Later packs of the kind are not tried at full size."""
    asked = full(monkeypatch, lambda call: 7)
    configs = [small(seed) for seed in range(6)]
    results = run_all(configs, progress=False, pack=4)
    assert asked[0] == 12 and max(asked[1:]) == 6 and len(asked) == 1 + 3 * 2
    told = capsys.readouterr().err.splitlines()
    assert told == ["4 runs at once do not fit into memory; now at most 2"]
    same_as_alone(results, configs, monkeypatch, tmp_path / "alone")


def test_at_last_runs_go_one_by_one(tmp_path, monkeypatch, capsys):
    asked = full(monkeypatch, lambda call: 3)
    configs = [small(seed) for seed in range(3)]
    results = run_all(configs, progress=False, pack=3)
    assert asked == [9, 6]
    assert capsys.readouterr().err.count("do not fit") == 2
    same_as_alone(results, configs, monkeypatch, tmp_path / "alone")


def test_a_finished_run_of_a_pack_that_fails_later_is_kept(tmp_path, monkeypatch):
    """Memory runs out in the second round, when the run with a single round has ended."""
    full(monkeypatch, lambda call: 12 if call == 1 else 6)
    configs = [small(0, rounds=1), *(small(seed) for seed in (1, 2, 3))]
    steps = []

    def step(simulation, real=Simulation.step):
        steps.append((simulation.config.seed, simulation.round + 1))
        real(simulation)

    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "step", step)
        results = run_all(configs, progress=False, pack=4)
    assert steps.count((0, 1)) == 1 and steps.count((1, 1)) == 2
    same_as_alone(results, configs, monkeypatch, tmp_path / "alone")


def test_a_single_run_that_does_not_fit_says_so(monkeypatch):
    def fit(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("fedobp_lib.training.loop.LoopBackend.fit", fit)
    with pytest.raises(SweepFailed, match=r"does not fit into memory: CUDA.*does not fit"):
        run_all([small(0), small(1)], progress=False, pack=2)


def test_the_device_is_told_once_and_before_anything_else(capsys):
    configs = grid("smoke", methods=["fedavg"], seeds=[0, 1], rounds=1)
    run_all(configs)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("device: ") and err.count("device: ") == 1
    assert "threads, fp32\n" in err
    run_all(configs)
    assert capsys.readouterr().err == ""
    run(small(5))
    assert capsys.readouterr().err.count("device: ") == 1
    run(small(6), progress=False)
    assert capsys.readouterr().err == ""
