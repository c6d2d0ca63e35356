"""When checkpoints are written, and what reading one needs; the rest is in `test_execution.py`."""

import copy

import pytest
import torch

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.runs import checkpoints
from fedobp_lib.runs.checkpoints import Checkpoint
from fedobp_lib.simulation import Simulation

TINY = {"clients": 6, "participation": 0.5, "rounds": 4, "local_epochs": 1, "eval_every": 2}


class Still:
    """A simulation whose state is a small tensor."""

    device = torch.device("meta")

    def state(self):
        return {"rows": torch.ones(3)}

    def load_state(self, state):
        self.loaded = state


@pytest.mark.parametrize("cost", [0.01, 1.0, 30.0])
def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch, cost):
    """A slow disk, or many gigabytes: the clock goes on by `cost` for each checkpoint."""
    now, written = [0.0], []
    real = checkpoints.write

    def write(path, fill):
        now[0] += cost
        written.append(now[0])
        real(path, fill)

    monkeypatch.setattr(checkpoints, "write", write)
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", seconds=60.0, share=0.02)
    while now[0] < 20_000:
        now[0] += 1.0  # a round
        checkpoint.save_if_due(Still())
    assert written[0] == pytest.approx(60, abs=cost + 1)
    assert cost * (len(written) - 1) <= 0.02 * 20_000
    # As many as are allowed, so that a kill does not cost more than it must.
    wait = max(60.0, cost / 0.02)
    assert len(written) >= 0.9 * (20_000 - 60) / (wait + cost + 1)


def test_a_checkpoint_is_read_outside_the_gpu(tmp_path):
    """The banks are on the device already; a second copy of them might not fit."""
    checkpoint, simulation = Checkpoint(tmp_path / "checkpoint.pt", seconds=0), Still()
    checkpoint.save_if_due(simulation)
    checkpoint.restore(simulation)
    rows = simulation.loaded["rows"]
    assert rows.device.type == "cpu" and rows.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError, MemoryError])
def test_a_lack_of_memory_is_told_as_what_it_is(tmp_path, capsys, fault):
    checkpoint, simulation = Checkpoint(tmp_path / "checkpoint.pt", seconds=0), Still()
    checkpoint.save_if_due(simulation)

    def full(state):
        raise fault("CUDA out of memory")

    simulation.load_state = full
    with pytest.raises(fault):
        checkpoint.restore(simulation)
    assert checkpoint.path.exists() and capsys.readouterr().err == ""


class Killed(BaseException):
    pass


def test_a_checkpoint_of_another_run_changes_nothing(tmp_path, monkeypatch, capsys):
    """The first tensor would fit, the second one does not."""
    whole = run(RunConfig(**TINY), directory=tmp_path / "whole")

    def stop(simulation):
        if simulation.round == 2:
            raise Killed

    def other(simulation, state=Simulation.state):
        kept = copy.deepcopy(state(simulation))
        kept["method"]["global"] += 1.0
        kept["method"]["local"] = torch.zeros(5, 3)
        return kept

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Simulation, "state", other)
        run(RunConfig(**TINY), checkpoint_seconds=0, on_round=stop)
    again = run(RunConfig(**TINY))
    assert "starting over" in capsys.readouterr().err
    assert again.history.equals(whole.history)


@pytest.mark.parametrize("text", ["soon", "-1", "inf", "nan"])
def test_a_time_that_is_none_is_told(monkeypatch, tmp_path, text):
    monkeypatch.setenv("FEDOBP_CHECKPOINT_SECONDS", text)
    with pytest.raises(UserError, match="must be a number of seconds"):
        Checkpoint(tmp_path / "checkpoint.pt")
