"""Who computes a run, among processes and machines."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.paths import runs_dir
from fedobp_lib.runs import lease
from fedobp_lib.runs.lease import NAME, Busy, Watch, leased

TINY = {"clients": 6, "participation": 0.5, "rounds": 3, "local_epochs": 1}

HOLD = """
import sys, time
from pathlib import Path
from fedobp_lib.runs import lease
lease.SECONDS = float(sys.argv[2])
with lease.leased(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lease of a folder for a minute."""
    started = []

    def start(folder, seconds=60.0):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_whoever_does_not_wait_is_told_who_computes(tmp_path, holder):
    process = holder(tmp_path)
    owner = f"process {process.pid} on {socket.gethostname()}"
    with pytest.raises(Busy, match=owner), leased(tmp_path, wait=False):
        pass


def test_the_lease_of_a_killed_process_is_free(tmp_path, holder):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with leased(tmp_path, wait=False) as still_ours:
        still_ours()
    assert not (tmp_path / NAME).exists()


def test_a_lease_of_a_machine_that_is_gone_is_taken_after_a_while(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lease, "SECONDS", 2.0)
    gone = f"filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken={'0' * 32}\nduration=2.0\n"
    (tmp_path / NAME).write_text(gone)
    began = time.monotonic()
    with pytest.raises(Busy, match="process 1 on elsewhere"), leased(tmp_path, wait=False):
        pass
    with leased(tmp_path):
        assert time.monotonic() - began >= 2.0
    assert "waiting for it" in capsys.readouterr().err


def test_a_watcher_sees_the_lease_of_a_machine_that_is_gone_end(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "SECONDS", 1.0)
    gone = f"filelock/2\npid=1\nhost=elsewhere\nmode=lease\ntoken={'0' * 32}\nduration=1.0\n"
    (tmp_path / NAME).write_text(gone)
    watch, began = Watch(tmp_path), time.monotonic()
    while not watch.ended():
        assert time.monotonic() - began < 20
        time.sleep(0.05)
    assert time.monotonic() - began >= 1.0 and not (tmp_path / NAME).exists()


def test_a_watcher_sees_a_killed_process_at_once_and_a_live_one_never(tmp_path, holder):
    process = holder(tmp_path)
    watch = Watch(tmp_path)
    assert not watch.ended() and not watch.ended() and (tmp_path / NAME).exists()
    process.kill()
    process.wait()
    assert watch.ended()
    assert Watch(tmp_path / "no such folder").ended()


def test_a_process_that_was_stopped_for_long_finds_its_lease_lost(tmp_path, monkeypatch):
    """It must not go on writing beside the one that took over."""
    monkeypatch.setattr(lease, "SECONDS", 1.5)
    with leased(tmp_path) as still_ours:
        still_ours()
        os.replace(tmp_path / NAME, tmp_path / "old")
        (tmp_path / NAME).write_text((tmp_path / "old").read_text().replace("pid=", "pid=9"))
        deadline = time.monotonic() + 20
        with pytest.raises(UserError, match="was taken over by process 9"):
            while time.monotonic() < deadline:
                still_ours()
                time.sleep(0.1)


def test_a_lost_lease_ends_the_run_and_its_checkpoint_stays(monkeypatch):
    monkeypatch.setattr(lease, "SECONDS", 0.6)

    def lose(simulation):
        folder = next(iter(runs.iterdir()))
        if simulation.round == 2:
            os.replace(folder / NAME, folder / ".gone")
            (folder / NAME).write_text((folder / ".gone").read_text().replace("pid=", "pid=9"))
            time.sleep(1.5)

    runs = runs_dir()
    with pytest.raises(UserError, match="taken over"):
        run(RunConfig(**TINY | {"rounds": 20}), on_round=lose, checkpoint_seconds=0)
    (folder,) = runs.iterdir()
    assert not (folder / "summary.json").exists() and (folder / "checkpoint.pt").exists()
