"""Runs on disk: determinism, interruption, faults."""

import errno
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.paths import runs_dir
from fedobp_lib.runs import files
from fedobp_lib.runs.store import RunResult
from fedobp_lib.simulation import Simulation

TINY = {"clients": 18, "participation": 0.17, "rounds": 4, "local_epochs": 1, "eval_every": 2}


def tiny(**changes) -> RunConfig:
    return RunConfig(**(TINY | changes))


def numbers(result) -> bytes:
    return b"".join((result.directory / f"{n}.csv").read_bytes() for n in ("history", "layers"))


def test_a_finished_run_is_never_computed_again(monkeypatch):
    first = run(tiny())
    monkeypatch.setattr(Simulation, "step", lambda self: pytest.fail("computed again"))
    assert run(tiny()).history.equals(first.history)
    with pytest.raises(pytest.fail.Exception):
        run(tiny(lr=0.02))


@pytest.mark.parametrize("method", ["fedobp", "fedper"])
def test_continued_at_any_round_gives_the_same_bytes(tmp_path, method):
    whole = run(tiny(method=method), directory=tmp_path / "whole")

    class Killed(BaseException):
        pass

    for last in (1, 2, 3):

        def stop(simulation, last=last):
            if simulation.round == last + 1:
                raise Killed

        home = tmp_path / f"killed-{last}"
        with pytest.raises(Killed):
            run(tiny(method=method), directory=home, on_round=stop, checkpoint_seconds=0)
        seen = []
        resumed = run(
            tiny(method=method), directory=home, on_round=lambda s, seen=seen: seen.append(s.round)
        )
        assert seen[0] == last  # went on, did not start over
        assert numbers(resumed) == numbers(whole)
        assert not (resumed.directory / "checkpoint.pt").exists()


def test_kill_minus_nine_and_the_same_command(tmp_path):
    """A real process, killed for real, again and again."""
    code = (
        "import torch; torch.set_num_threads(2)\n"
        "from fedobp_lib import RunConfig, run\n"
        f"run(RunConfig(**{TINY | {'rounds': 12}!r}), checkpoint_seconds=0)\n"
    )
    command = [sys.executable, "-c", code]
    kills = 0
    for delay in (0.0, 0.6, 0.2):
        process = subprocess.Popen(command)
        while not list(runs_dir().glob("*/config.json")) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(delay)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    (folder,) = runs_dir().iterdir()
    whole = run(tiny(rounds=12), directory=tmp_path / "whole")
    assert kills >= 1 and folder.name == whole.run_id
    assert numbers(RunResult(folder)) == numbers(whole)
    assert sorted(p.name for p in folder.iterdir() if p.name[0] != ".") == [
        "clients.csv", "config.json", "history.csv", "layers.csv", "summary.json",
    ]  # fmt: skip


def test_a_broken_checkpoint_costs_a_warning(tmp_path, capsys):
    whole = run(tiny(), directory=tmp_path / "whole")
    folder = tmp_path / "other" / whole.run_id
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"half a checkp")
    assert numbers(run(tiny(), directory=tmp_path / "other")) == numbers(whole)
    assert "starting over" in capsys.readouterr().err


def test_a_full_disk_during_a_checkpoint_costs_a_warning(monkeypatch, capsys, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    result = run(tiny(), checkpoint_seconds=0)
    assert "No space left on device" in capsys.readouterr().err
    assert not [p for p in result.directory.iterdir() if "checkpoint" in p.name]


def test_a_run_that_cannot_be_written_says_so_and_keeps_its_checkpoint(monkeypatch):
    def full(path, fill, real=files.write):
        if path.name == "history.csv":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, fill)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(UserError, match=r"cannot write the run folder.*No space left"):
            run(tiny(), checkpoint_seconds=0)
    seen = []
    run(tiny(), on_round=lambda s: seen.append(s.round))
    assert seen[0] == 3


def test_two_processes_with_the_same_run_compute_it_once(tmp_path):
    code = (
        "from fedobp_lib import RunConfig, run\n"
        f"print(run(RunConfig(**{TINY!r})).summary['provenance']['finished'])\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    finished = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert finished[0] == finished[1]


def test_nothing_deprecated_is_used():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        assert run(tiny()).clients["train_samples"].sum() > 0
