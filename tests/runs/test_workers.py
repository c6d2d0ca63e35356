"""Sweeps: the same runs whoever computes them and whatever happens meanwhile."""

import random
import subprocess
import sys
import threading
import time

import pytest
import torch

from fedobp_lib import RunConfig, UserError, run_all, sweep
from fedobp_lib.cli import main
from fedobp_lib.errors import PREEMPTED, SweepFailed
from fedobp_lib.methods import METHODS
from fedobp_lib.paths import runs_dir
from fedobp_lib.runs import computing, workers
from fedobp_lib.runs.computing import LOG, name_of
from fedobp_lib.runs.execution import run
from fedobp_lib.runs.integrity import FILES
from fedobp_lib.runs.workers import TRIES, Workers
from fedobp_lib.simulation import Simulation

# Three clients a round, of few images each.
TINY = {"clients": 18, "participation": 0.17, "local_epochs": 1}
COMMAND = [
    sys.executable, "-m", "fedobp_lib", "sweep", "--method", "fedobp", "fedavg", "fedper",
    "--seed", "0", "1", "--clients", "18", "--participation", "0.17", "--local-epochs", "1",
]  # fmt: skip


def configs(rounds=3, **changes):
    return [
        RunConfig(**(TINY | {"rounds": rounds, "method": m, "seed": s} | changes))
        for m in ("fedobp", "fedavg", "fedper")
        for s in (0, 1)
    ]


def numbers(results):
    return {r.run_id: b"".join((r.directory / n).read_bytes() for n in FILES) for r in results}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Runs are tiny."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """Where the undisturbed runs are; call it to get their numbers."""

    def undisturbed(runs):
        with monkeypatch.context() as patch:
            patch.setenv("FEDOBP_RUNS", str(tmp_path / "undisturbed"))
            return numbers(sweep(runs, workers=1, progress=False).results)

    return undisturbed


def test_two_workers_give_the_same_runs(elsewhere):
    done = sweep(configs(), workers=2, progress=False)
    assert len(done.results) == 6 and not done.failed
    assert numbers(done.results) == elsewhere(configs())
    assert numbers(run_all(configs(), workers=2)) == numbers(done.results)


def test_a_worker_that_is_killed_is_replaced_and_its_run_goes_on(elsewhere, monkeypatch, capsys):
    killed = []
    give = Workers._give

    def kill_the_first(self, number, group):
        if not killed:
            killed.append(True)
            process = self._processes[number] = self._start(number)
            lease = runs_dir() / name_of(group[0]) / ".lease"
            threading.Thread(target=kill_within, args=(process, lease)).start()
        return give(self, number, group)

    def kill_within(process, lease):
        while not lease.exists():
            time.sleep(0.01)
        time.sleep(0.2)
        process.kill()

    monkeypatch.setattr(Workers, "_give", kill_the_first)
    done = sweep(configs(12), workers=2)
    assert killed and "SIGKILL" in capsys.readouterr().err
    assert numbers(done.results) == elsewhere(configs(12))


def test_a_run_that_kills_every_worker_fails_and_the_others_do_not(monkeypatch, capsys):
    give = Workers._give

    def kill(self, number, group):
        if group[0].method == "fedper":
            self._processes[number] = self._start(number)
            self._processes[number].kill()
            self._processes[number].wait()
            return set()
        return give(self, number, group)

    monkeypatch.setattr(Workers, "_give", kill)
    done = sweep(configs(), workers=2, progress=False)
    assert len(done.results) == 4 and len(done.failed) == 2
    assert all(f"ended {TRIES} times (SIGKILL)" in why for why in done.failed.values())


def test_a_failing_run_is_told_with_its_log_and_stops_no_other(monkeypatch, capsys):
    def broken(config, **options):
        if config.method == "fedavg" and config.seed == 1:
            raise ZeroDivisionError("what nobody thought of")
        return run(config, **options)

    monkeypatch.setattr(computing, "run", broken)
    folder = sweep(configs()[:1]).results[0].directory  # so that there is one to write a log to
    bad = sweep(configs(), progress=False)
    assert len(bad.results) == 5 and folder.is_dir()
    ((name, why),) = bad.failed.items()
    assert "ZeroDivisionError: what nobody thought of" in why
    with pytest.raises(SweepFailed, match="what nobody thought of"):
        run_all(configs(), progress=False)
    arguments = [*COMMAND[3:], "--rounds", "3"]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "5 finished, 1 failed" in out and name in out
    monkeypatch.setattr(computing, "run", run)
    assert main(arguments) == 0


def test_the_log_of_a_failure_is_in_the_runs_folder_and_goes_with_it(monkeypatch):
    step = Simulation.step

    def broken(self):
        step(self)
        raise ZeroDivisionError("in round 1")

    config = configs()[0]
    with monkeypatch.context() as patch:
        patch.setattr(Simulation, "step", broken)
        assert sweep([config], progress=False).failed
    (folder,) = runs_dir().iterdir()
    assert "in round 1" in (folder / LOG).read_text()
    assert sweep([config], progress=False).results and not (folder / LOG).exists()


def started(command):
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [["--workers", "1"], ["--workers", "2"], ["--pack", "2"]])
def test_sigterm_writes_checkpoints_and_the_same_command_continues(elsewhere, how):
    command = [*COMMAND, "--rounds", "15", *how]
    process = started(command)
    while not list(runs_dir().glob("*/config.json")):
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.5)
    process.terminate()
    told = process.communicate()[1]
    assert process.returncode == PREEMPTED, told
    assert "the same command continues" in told and "Traceback" not in told
    assert list(runs_dir().glob("*/checkpoint.pt"))
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    found = sweep(configs(15), progress=False).results
    if how[0] == "--workers":
        assert numbers(found) == elsewhere(configs(15))
    assert not list(runs_dir().glob("*/checkpoint.pt")) and len(found) == 6


def test_sigterm_ends_a_single_run_likewise(monkeypatch, tmp_path):
    command = [*COMMAND[:3], "run", "--rounds", "40", *COMMAND[-6:]]
    process = started(command)
    while not list(runs_dir().glob("*/config.json")):
        time.sleep(0.05)
        assert process.poll() is None
    process.terminate()
    told = process.communicate()[1]
    assert process.returncode == PREEMPTED and "the same command continues" in told
    assert "Traceback" not in told and list(runs_dir().glob("*/checkpoint.pt"))
    config, seen = RunConfig(**TINY, rounds=40), []
    resumed = run(config, on_round=lambda simulation: seen.append(simulation.round))
    assert seen[0] >= 1
    assert numbers([resumed]) == numbers([run(config, directory=tmp_path / "undisturbed")])


def test_killed_again_and_again_it_gives_the_undisturbed_runs(elsewhere, monkeypatch):
    """A short version of `benchmarks/kills.py`."""
    monkeypatch.setenv("FEDOBP_CHECKPOINT_SECONDS", "0")
    draw = random.Random(0)
    command = [*COMMAND, "--rounds", "8", "--workers", "2"]
    for _ in range(4):
        process = started(command)
        time.sleep(draw.uniform(2.0, 5.0))
        process.kill()
        process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert numbers(sweep(configs(8), progress=False).results) == elsewhere(configs(8))


@pytest.mark.parametrize("killed", [False, True])
def test_two_sweeps_over_one_grid_share_the_work(elsewhere, killed):
    command = [*COMMAND, "--rounds", "6"]
    both = [started(command) for _ in range(2)]
    if killed:
        while len(list(runs_dir().glob("*/.lease"))) < 2:
            assert all(process.poll() is None for process in both)
            time.sleep(0.02)
        gone = both.pop()
        gone.kill()
        gone.communicate()  # else it stays in the table of processes, as if it lived
    told = [process.communicate()[1] for process in both]
    assert {process.returncode for process in both} == {0}, told
    assert numbers(sweep(configs(6), progress=False).results) == elsewhere(configs(6))
    assert not list(runs_dir().glob("*/.lease")) and not list(runs_dir().glob("*.bad"))


@pytest.mark.parametrize("how", [{"workers": 2}, {"workers": 1, "pack": 3}])
def test_a_run_that_diverges_leaves_the_good_ones_beside_it_alone(elsewhere, how):
    good = configs()[:2]
    bad = RunConfig(**TINY, rounds=3, lr=1e20, seed=2)
    done = sweep([good[0], bad, good[1]], progress=False, **how)
    assert [bool(result.diverged) for result in done.results] == [False, True, False]
    assert not done.failed
    if how["workers"] == 2:
        assert numbers([done.results[0], done.results[2]]) == elsewhere(good)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_shards_are_disjoint_and_whole(count, monkeypatch):
    taken = []
    monkeypatch.setattr("fedobp_lib.runs.sweeps.compute", lambda groups, *_: taken.extend(groups))
    for number in range(1, count + 1):
        sweep(configs(), shard=(number, count), progress=False)
    every = [(c.method, c.seed) for group in taken for c in group]
    assert sorted(every) == sorted((c.method, c.seed) for c in configs())


def test_a_shard_that_is_none_is_told(capsys):
    with pytest.raises(UserError, match="shards 1/3 to 3/3"):
        sweep(configs(), shard=(4, 3))
    for text in ("4", "a/b", "1/0", "0/2", "-1/2"):
        assert main([*COMMAND[3:], "--rounds", "1", f"--shard={text}"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_worker_ends_with_its_sweep(monkeypatch):
    """Nobody computes on when the sweep was killed."""
    pool = Workers(1, "cpu")
    process = pool._start(0)
    process.stdin.close()
    assert process.wait(timeout=300) == 0


def test_there_is_one_worker_on_a_small_machine(monkeypatch):
    for cores, count in ((1, 1), (2, 1), (8, 1), (16, 2), (64, 8)):
        monkeypatch.setattr(workers.os, "cpu_count", lambda cores=cores: cores)
        assert workers.default_workers(torch.device("cpu")) == count


def test_a_method_that_only_this_process_knows_is_computed_here(monkeypatch):
    class Mine(METHODS["fedavg"]):
        pass

    Mine.__module__ = "__main__"
    monkeypatch.setitem(METHODS, "mine", Mine)
    monkeypatch.setattr("fedobp_lib.runs.sweeps.default_workers", lambda device: 2)
    runs = [RunConfig(**TINY, rounds=1, method="mine", seed=seed) for seed in (0, 1)]
    assert len(sweep(runs, progress=False).results) == 2


@pytest.mark.parametrize("option", ["--workers=0", "--pack=0", "--workers=-1"])
def test_a_number_that_is_none_is_told(option, capsys):
    assert main([*COMMAND[3:], "--rounds", "1", option]) == 2
    assert "must be at least 1" in capsys.readouterr().err
