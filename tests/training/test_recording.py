"""Recording without a GPU: `torch.cuda` is a stand-in that fails as the real one does."""

from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import torch
from helpers.literal import tiny_images

from fedobp_lib import RunConfig
from fedobp_lib.simulation import simulate
from fedobp_lib.training import recording
from fedobp_lib.training.recording import Recorder


class Cuda:
    """Streams, devices and graphs by name. A capture that fails leaves its stream and device."""

    def __init__(self) -> None:
        self.stream_now, self.device_now = "main", "cuda:1"

    def current_stream(self, device):
        return SimpleNamespace(name=self.stream_now, device=device, wait_stream=lambda s: None)

    def Stream(self):
        return SimpleNamespace(name="side", device="cuda:1", wait_stream=lambda s: None)

    def graph_pool_handle(self):
        return 0

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: None)

    @contextmanager
    def device(self, device):
        before, self.device_now = self.device_now, str(device)
        try:
            yield
        finally:
            self.device_now = before

    @contextmanager
    def stream(self, stream):
        before, self.stream_now = self.stream_now, stream.name
        try:
            yield
        finally:
            self.stream_now = before

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        self.stream_now, self.device_now = stream.name, "cuda:0"
        try:
            yield
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture") from None
        self.stream_now, self.device_now = "main", "cuda:1"


@pytest.fixture
def cuda(monkeypatch):
    made = Cuda()
    monkeypatch.setattr(recording.torch, "cuda", made)
    return made


def counting(tensor):
    def steps():
        tensor.add_(1)

    return steps


def test_steps_are_recorded_when_they_come_again_and_replayed_from_then_on(cuda, monkeypatch):
    recorder, total = Recorder(torch.device("cuda:1")), torch.zeros(1)
    recorded = []

    def record(self, steps):
        recorded.append(total.item())
        steps()  # what it changes is lost
        return counting(total)

    monkeypatch.setattr(Recorder, "record", record)
    for n in range(1, 5):
        assert recorder.run("kind", counting(total), [total])
        assert total.item() == n
    assert recorded == [1.0]


def test_a_failed_capture_leaves_the_stream_tells_the_cause_and_loses_no_step(cuda, capsys):
    recorder, total = Recorder(torch.device("cuda:1")), torch.zeros(1)
    taken = []

    def steps():
        taken.append(cuda.stream_now)
        total.add_(1)
        if cuda.stream_now == "side" and taken.count("side") == 2:
            raise RuntimeError("the cause: a copy from pageable memory")

    assert recorder.run("kind", steps, [total])
    assert not recorder.run("kind", steps, [total])
    assert (cuda.stream_now, cuda.device_now) == ("main", "cuda:1")
    assert taken[-1] == "main" and total.item() == 2
    said = capsys.readouterr().err
    assert "the cause: a copy from pageable memory" in said and len(said.splitlines()) == 1


def test_work_goes_to_the_backends_own_gpu(monkeypatch):
    """On the second GPU everything is done with it as the current one."""
    backend = simulate(
        RunConfig(clients=3), tiny_images(), device="cpu", backend="batched"
    ).trainer.backend
    backend.device = torch.device("cuda:1")
    entered = []

    @contextmanager
    def device(which):
        entered.append(str(which))
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    for work in ("fit", "gradient", "fisher", "features", "test"):
        with suppress(IndexError):  # nothing to do
            getattr(backend, work)([])
    assert entered == ["cuda:1"] * 5
