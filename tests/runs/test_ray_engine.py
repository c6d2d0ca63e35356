"""Sweeps on a Ray cluster: nodes die, see no shared folder, lack the data; runs are the same."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from fedobp_lib import RunConfig, UserError, sweep
from fedobp_lib.cli import main
from fedobp_lib.data.official import read_digits
from fedobp_lib.data.partition import dirichlet_partition
from fedobp_lib.errors import PREEMPTED
from fedobp_lib.methods import METHODS
from fedobp_lib.paths import data_dir, runs_dir
from fedobp_lib.runs import ray_engine
from fedobp_lib.runs.computing import LOG, Event
from fedobp_lib.runs.display import Display
from fedobp_lib.runs.integrity import FILES
from fedobp_lib.runs.lease import leased
from fedobp_lib.runs.ray_folder import received
from fedobp_lib.runs.ray_task import Message
from fedobp_lib.runs.sweeps import run_ids

# Ray reads it when it is imported: all that these tests start listens on the loopback interface.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
pytest.importorskip("ray")

# Three clients a round, of few images each.
TINY = {"clients": 18, "participation": 0.17, "local_epochs": 1}
COMMAND = [
    "sweep", "--method", "fedobp", "fedavg", "fedper", "--seed", "0", "1", "--clients", "18",
    "--participation", "0.17", "--local-epochs", "1", "--engine", "ray",
]  # fmt: skip
SMALL = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
# So that a dead node is noticed after two seconds.
WATCHFUL = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}


def configs(rounds, methods=("fedobp", "fedavg", "fedper"), **changes):
    return [
        RunConfig(**(TINY | {"rounds": rounds, "method": method, "seed": seed} | changes))
        for method in methods
        for seed in (0, 1)
    ]


def numbers(results):
    return {r.run_id: b"".join((r.directory / n).read_bytes() for n in FILES) for r in results}


def wait_for(condition, seconds=600):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def owner(folder):
    """The process that holds a run's lease; None: nobody."""
    try:
        return int(re.search(r"pid=(\d+)", (folder / ".lease").read_text())[1])
    except (OSError, TypeError):
        return None


def owners():
    """Processes that hold leases; one that is just being written has none yet."""
    found = [owner(lease.parent) for lease in runs_dir().glob("*/.lease")]
    return [process for process in found if process]


def parent_of(process):
    try:
        return psutil.Process(process).ppid() if process else None
    except psutil.NoSuchProcess:
        return None


@pytest.fixture(scope="module")
def head():
    """A cluster of one node with one CPU."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as folder:
        for name in ("FEDOBP_RUNS", "FEDOBP_DATA", "FEDOBP_CHECKPOINT_SECONDS"):
            patch.delenv(name, raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        os.mkdir(f"{folder}/ray")
        first = SMALL | {"_system_config": WATCHFUL}
        cluster = Cluster(initialize_head=True, head_node_args=first)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def cluster(head, monkeypatch):
    """The cluster, where sweeps find it."""
    monkeypatch.setenv("RAY_ADDRESS", head.address)
    return head


@pytest.fixture
def local(monkeypatch, tmp_path):
    """The numbers of undisturbed local runs."""

    def numbers_of(runs):
        with monkeypatch.context() as patch:
            patch.setenv("FEDOBP_RUNS", str(tmp_path / "local"))
            patch.delenv("FEDOBP_CHECKPOINT_SECONDS", raising=False)
            return numbers(sweep(runs, workers=1, progress=False).results)

    return numbers_of


@pytest.fixture
def told(monkeypatch):
    """What the display takes in."""
    events, tell = [], Display.tell

    def note(self, event):
        events.append(event)
        tell(self, event)

    monkeypatch.setattr(Display, "tell", note)
    return events


def test_a_node_is_killed_and_every_run_ends_once_as_on_this_machine(
    cluster, local, told, monkeypatch, capfd
):
    monkeypatch.setenv("FEDOBP_CHECKPOINT_SECONDS", "0")
    node = cluster.add_node(**SMALL)
    before = {}

    stopped = []

    def stops():
        """Whether the node's worker is stopped in the middle of a run, and another run finished."""
        raylet = node.all_processes["raylet"][0].process.pid
        middle = [path.parent for path in runs_dir().glob("*/checkpoint.pt")]
        if not list(runs_dir().glob("*/summary.json")):
            return False
        for folder in middle:
            worker = owner(folder)
            if worker and parent_of(worker) == raylet:
                os.kill(worker, signal.SIGSTOP)
                if owner(folder) == worker and not (folder / "summary.json").exists():
                    stopped.append(worker)
                    return True
                os.kill(worker, signal.SIGCONT)
        return False

    def kill_in_the_middle():
        wait_for(stops)
        before.update({p: p.stat().st_mtime_ns for p in runs_dir().glob("*/summary.json")})
        cluster.remove_node(node, allow_graceful=False)  # SIGKILL
        os.kill(stopped[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_in_the_middle)
    killer.start()
    done = sweep(configs(16), engine="ray")
    killer.join()
    out, err = capfd.readouterr()
    assert out == "" and "Ray at 127.0.0.1:" in err and "2 nodes, 2 CPUs, no GPU" in err
    assert not done.failed and 1 <= len(before) <= 5
    assert any("its runs go on in another" in event.text for event in told)
    finished = [event.run for event in told if event.kind == "finished"]
    assert sorted(finished) == sorted(result.run_id for result in done.results)
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert {path.name for path in runs_dir().glob("*/*")} == {*FILES, "summary.json"}
    assert len(list(runs_dir().iterdir())) == 6
    assert numbers(done.results) == local(configs(16))


@pytest.fixture
def connected(cluster):
    """A connection of the process's own, which sweeps take; workers go from one to the next."""
    import ray

    if not ray.is_initialized():
        ray.init(cluster.address, log_to_driver=False)
    yield
    assert ray.is_initialized()


def test_a_node_without_the_folder_or_the_data_sends_what_it_has(
    cluster, connected, local, monkeypatch, tmp_path
):
    data_dir().mkdir()
    images, labels, is_train = read_digits()
    np.savez(data_dir() / "mine.npz", images=images, labels=labels, is_train=is_train)
    own = {"FEDOBP_RUNS": str(tmp_path / "away"), "FEDOBP_DATA": str(tmp_path / "no data")}
    node = cluster.add_node(**SMALL, env_vars=own)
    runs = configs(2, ["fedavg", "fedper"], dataset="mine")
    try:
        monkeypatch.setenv("FEDOBP_CHECKPOINT_SECONDS", "soon")
        bad = sweep(runs, engine="ray", progress=False)
        for name, why in bad.failed.items():
            log = runs_dir() / name / LOG
            assert "must be a number" in why and why.endswith(str(log))
            assert "Traceback" in log.read_text()
        assert len(bad.failed) == 4 and list((tmp_path / "away").glob(f"*/{LOG}"))

        monkeypatch.delenv("FEDOBP_CHECKPOINT_SECONDS")
        runs += configs(2, ["fedavg"], dataset="mine", lr=1e30)
        split = tmp_path / "split.npz"
        runs += configs(2, ["fedavg"], dataset="mine", partition=str(split))
        drawn = dirichlet_partition(labels, TINY["clients"], 1.0, seed=3)
        drawn.save(split)
        compute = ray_engine.RayEngine.compute

        def without_the_file(self, groups, report):
            split.unlink()  # nobody reads it again
            compute(self, groups, report)

        monkeypatch.setattr(ray_engine.RayEngine, "compute", without_the_file)
        done = sweep(runs, engine="ray", progress=False)
    finally:
        cluster.remove_node(node, allow_graceful=False)
    assert not done.failed and len(done.diverged) == 2
    away = {path.parent.name for path in (tmp_path / "away").glob("*/summary.json")}
    assert away and away <= {result.run_id for result in done.results}
    sent = (tmp_path / "no data" / "mine.npz").read_bytes()
    assert sent == (data_dir() / "mine.npz").read_bytes()
    assert not list(runs_dir().glob(f"*/{LOG}")) and len(list(runs_dir().iterdir())) == 8
    drawn.save(split)
    assert numbers(done.results) == local(runs)


def test_a_run_that_another_process_computes_is_waited_for(connected, told):
    runs = configs(1, ["fedavg"])
    busy, other = run_ids(runs)
    (runs_dir() / busy).mkdir(parents=True)

    def hold():
        with leased(runs_dir() / busy):
            wait_for(lambda: any("going on with others" in event.text for event in told))
            wait_for(lambda: (runs_dir() / other / "summary.json").is_file())
            time.sleep(1.5)  # so that it is looked at in vain

    holder = threading.Thread(target=hold)
    holder.start()
    wait_for(lambda: owner(runs_dir() / busy))
    done = sweep(runs, engine="ray", progress=False)
    holder.join()
    assert len(done.results) == 2
    assert [event.run for event in told if event.kind == "finished"] == [other, busy]
    assert sum("going on with others" in event.text for event in told) == 1


def started(*more):
    return subprocess.Popen(
        [sys.executable, "-m", "fedobp_lib", *COMMAND, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, PREEMPTED), (signal.SIGINT, 130)])
def test_who_is_stopped_leaves_checkpoints_and_no_process(cluster, told, monkeypatch, number, code):
    if number == signal.SIGINT:  # which does not wait for one
        monkeypatch.setenv("FEDOBP_CHECKPOINT_SECONDS", "0")
    process = started("--rounds", "60")
    found = []
    wait_for(lambda: found.extend(owners()) or found)
    worker = found[0]
    time.sleep(0.5)  # into a round; not so long that the run ends
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == code and out == "", err
    assert "Traceback" not in err and "the same command continues" in err.splitlines()[-1]
    wait_for(lambda: not psutil.pid_exists(worker))
    assert not list(runs_dir().glob(".sweep-*"))
    if number == signal.SIGTERM:
        (checkpoint,) = runs_dir().glob("*/checkpoint.pt")
        reached = torch.load(checkpoint, weights_only=True)["round"]
        runs = dict(zip(run_ids(configs(60)), configs(60), strict=True))
        sweep([runs[checkpoint.parent.name]], engine="ray", progress=False)
        assert next(event.round for event in told if event.kind == "round") == reached


def test_a_run_that_kills_every_worker_fails_and_the_others_do_not(connected, monkeypatch):
    compute_pack = ray_engine.compute_pack

    def deadly(number, order, desk):
        if next(iter(order.runs.values())).method == "fedper":
            os._exit(1)
        compute_pack(number, order, desk)

    monkeypatch.setattr(ray_engine, "compute_pack", deadly)
    monkeypatch.setattr(ray_engine, "TRIES", 2)
    runs = configs(1, ["fedper", "fedavg"])[1:]
    done = sweep(runs, engine="ray", progress=False)
    assert len(done.results) == 2
    assert list(done.failed.values()) == ["its task ended 2 times (its process was killed)"]


def test_a_node_that_names_runs_otherwise_computes_none(connected, monkeypatch):
    """As it has another data set of the name, or another version of the kit."""
    compute_pack = ray_engine.compute_pack

    def mistaken(number, order, desk):
        (config,) = order.runs.values()
        compute_pack(number, replace(order, runs={"another": config}), desk)

    monkeypatch.setattr(ray_engine, "compute_pack", mistaken)
    done = sweep(configs(1)[:1], engine="ray", progress=False)
    (why,) = done.failed.values()
    assert "another version of the kit or of the data set 'digits'" in why
    assert not list(runs_dir().iterdir())


def test_an_archive_that_came_damaged_is_no_run():
    event = Event("0123456789ab", "finished", 3)
    home = runs_dir()
    told = received(Message(event, home=False, archive=b"not an archive"), home)
    assert told.kind == "failed" and "did not come back" in told.text
    assert not (home / event.run).exists()


def test_a_method_of_ones_own_is_refused(monkeypatch):
    class Mine(METHODS["fedavg"]):
        pass

    Mine.__module__ = "__main__"
    monkeypatch.setitem(METHODS, "mine", Mine)
    with pytest.raises(UserError, match="'mine' is not the kit's, and Ray's processes do not know"):
        sweep([RunConfig(**TINY, rounds=1, method="mine")], engine="ray")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--cpus-per-pack=0", "cpus_per_pack must be at least 1"),
        ("--gpus-per-pack=2", "gpus_per_pack must lie in [0, 1]"),
        ("--device=cpu --gpus-per-pack=1", "does not go with the device cpu"),
        ("--device=meta", "auto, cpu or cuda"),
        ("--engine=rey", "did you mean 'ray'"),
        ("--engine=local --gpus-per-pack=1", "are for the engine ray"),
        ("", "no Ray cluster at RAY_ADDRESS=127.0.0.1:1: ConnectionRefusedError"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(options, message, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    assert main([*COMMAND, "--rounds", "1", *options.split()]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1


def test_without_the_extra_it_is_told_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*COMMAND, "--rounds", "1"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'fedobp[ray]'" in err and len(err.splitlines()) == 1
