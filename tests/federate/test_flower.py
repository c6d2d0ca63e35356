"""A server and four clients in processes of their own, which Flower connects."""

import os
import signal
import socket
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
import torch
from helpers import ROOT

from fedobp_lib import RunConfig, run
from fedobp_lib.data.clients import sample_cohort
from fedobp_lib.errors import PREEMPTED
from fedobp_lib.runs.archive import export_runs, import_runs
from fedobp_lib.runs.store import damage

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]'")

from fedobp_lib.federate.launch import federate

FAULTY = str(ROOT / "tests" / "helpers" / "faulty_process.py")
FILES = ("history.csv", "layers.csv", "clients.csv")
CLIENTS, ROUNDS = 4, 10


def config(method, **settings):
    return RunConfig(
        method=method, clients=CLIENTS, participation=0.5, rounds=ROUNDS, local_epochs=1,
        batch_size=128, eval_every=5, settings=settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A run in this process; each is computed once."""
    home = tmp_path_factory.mktemp("simulated")
    return lambda configuration: run(configuration, directory=home, progress=False)


def processes_of(folder):
    """Who has the folder in its command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or []):
            found.append(process)
    return found


def with_faults(monkeypatch, faults):
    """How processes are started that go wrong."""
    monkeypatch.setenv("FAULTS", faults)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    return lambda role, rest: [sys.executable, FAULTY, role, *rest]


def same_files(one, two):
    for name in FILES:
        assert (one.directory / name).read_bytes() == (two.directory / name).read_bytes(), name


@pytest.mark.parametrize(
    ("method", "settings"),
    [("fedavg", {}), ("fedobp", {"scoring": "server", "downlink": "sparse", "quantile": 0.99})],
)
def test_the_numbers_are_those_of_the_simulation_byte_for_byte(
    method, settings, simulated, tmp_path
):
    before = set(tmp_path.iterdir())
    there = federate(config(method, **settings), progress=False)
    here = simulated(config(method, **settings))
    assert there.directory != here.directory and there.directory.name == f"flower-{here.run_id}"
    same_files(there, here)
    assert there.summary["final"] == here.summary["final"]
    assert there.summary["provenance"]["backend"] == "flower" and not there.summary["faults"]
    assert processes_of(there.directory) == []
    assert set(tmp_path.iterdir()) - before == {tmp_path / "runs"}
    assert not [path for path in there.directory.iterdir() if path.is_dir()]

    archive, other = tmp_path / "runs.tar.gz", tmp_path / "other" / there.directory.name
    export_runs([there.directory], archive)
    assert import_runs(archive, other.parent).new == [other.name]
    traffic = (there.directory / "traffic.csv").read_bytes()
    assert (other / "traffic.csv").read_bytes() == traffic
    (other / "traffic.csv").write_bytes(traffic[:-2] + bytes([traffic[-2] ^ 1]) + b"\n")
    assert damage(other) == "traffic.csv is not as it was written"

    sent = pd.read_csv(there.directory / "traffic.csv")
    trained = sent[sent["purpose"] == "train"]
    cohorts = [sample_cohort(0, n, CLIENTS, 2).tolist() for n in range(1, ROUNDS + 1)]
    assert trained.groupby("round")["client"].agg(list).tolist() == cohorts
    # The wire carries all tensors, and little around them.
    for way in ("down", "up"):
        on_wire, tensors = sent[f"wire_{way}"], sent[f"tensors_{way}"]
        assert (on_wire > tensors).all()
        assert trained[f"wire_{way}"].sum() < 1.01 * trained[f"tensors_{way}"].sum()
    # Down go a model in fp32, and where it is sparse, 8 bytes for each personal parameter.
    personal = 2 * here.layers.groupby("round")["personalized"].sum()
    more = trained.groupby("round")["tensors_down"].sum() - 2 * 4 * here.summary["parameters"]
    assert more.tolist() == (8 * personal).tolist()
    assert (personal > 0).any() == (method == "fedobp")


def test_a_server_that_is_killed_goes_on_from_its_checkpoint(monkeypatch, simulated, capfd):
    monkeypatch.setenv("FEDOBP_CHECKPOINT_SECONDS", "0")
    command = with_faults(monkeypatch, '{"server@6": "die"}')
    there = federate(config("fedper"), progress=False, command=command)
    assert (there.directory / "server@6").exists()
    said = capfd.readouterr().err
    assert said.count("the server was ended by SIGKILL") == 1 and "gone" not in said
    assert not there.summary["faults"]
    same_files(there, simulated(config("fedper")))
    traffic = pd.read_csv(there.directory / "traffic.csv")
    assert (traffic["purpose"] == "begin").sum() == 2 * CLIENTS


def test_what_goes_wrong_with_clients_is_told_and_the_rounds_go_on(monkeypatch, simulated, capfd):
    cohorts = {n: sample_cohort(0, n, CLIENTS, 2).tolist() for n in range(1, ROUNDS + 1)}
    dies, nan, shape = cohorts[5][0], cohorts[3][0], cohorts[4][1]
    faults = f'{{"{dies}@5": "die", "{nan}@3": "nan", "{shape}@4": "shape"}}'
    command = with_faults(monkeypatch, faults)
    there = federate(config("fedobp"), progress=False, command=command)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("round")]
    assert told[:3] == [
        f"round 3: client {nan} is refused: 'model' holds NaN or infinity",
        f"round 4: client {shape} is refused: 'model' has the shape (582025,), not (582026,)",
        f"round 5: client {dies} is gone",
    ]
    faults = [(fault["round"], fault["client"]) for fault in there.summary["faults"]]
    assert faults[:3] == [(3, nan), (4, shape), (5, dies)]

    here = simulated(config("fedobp"))
    undisturbed = there.history[there.history["round"] < 3]
    assert undisturbed.equals(here.history[here.history["round"] < 3])
    assert there.history["round"].max() == ROUNDS
    lost = there.clients["accuracy_after"].isna()
    assert lost.tolist() == [client == dies for client in range(CLIENTS)]
    traffic = pd.read_csv(there.directory / "traffic.csv")
    assert dies not in traffic[traffic["round"] > 5]["client"].tolist()


@pytest.fixture
def command_line(tmp_path):
    """`fedobp federate` as a process, of which nothing must stay."""
    home = tmp_path / "runs"
    arguments = [
        "federate", "--method", "fedobp", "--clients", CLIENTS, "--participation", 0.5,
        "--rounds", ROUNDS, "--local-epochs", 1, "--batch-size", 128, "--eval-every", 5,
    ]  # fmt: skip
    environment = os.environ | {
        "FEDOBP_RUNS": str(home),
        "FEDOBP_CHECKPOINT_SECONDS": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "FAULTS": '{"server@1": "hold", "server@3": "hold", "server@6": "hold"}',
    }
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, FAULTY, *map(str, arguments)],
            env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            # Where tests run in the background, Ctrl-C is ignored, also by what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        started.append(process)
        return process

    yield start, home
    for process in started:
        process.kill()
        process.communicate()
    assert wait_for(lambda: not processes_of(home))


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def is_open(address):
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port))).close()
        return True
    except OSError:
        return False


def addresses(home):
    return [path.read_text() for path in home.glob("flower-*/clients/*/server")]


def rounds_in(home):
    """How many are in the checkpoint."""
    (path,) = home.glob("flower-*/checkpoint.pt")
    return torch.load(path, weights_only=True)["round"]


def test_whoever_is_ended_nothing_stays_and_the_same_command_goes_on(command_line, simulated):
    start, home = command_line

    def held(number):
        """Wait until the server has taken a round, and waits itself."""
        assert wait_for(lambda: list(home.glob(f"flower-*/server@{number}")))
        known = addresses(home)
        assert len(known) == CLIENTS and all(map(is_open, known))
        return known

    process = start()
    known = held(1)
    process.send_signal(signal.SIGINT)  # as Ctrl-C does
    assert process.wait(300) == 130 and "Traceback" not in process.stderr.read()
    assert processes_of(home) == []
    assert not any(map(is_open, known))

    process = start()
    known = held(3)
    process.terminate()  # as a batch system does
    assert process.wait(300) == PREEMPTED and "Traceback" not in process.stderr.read()
    assert processes_of(home) == []
    assert not any(map(is_open, known))
    assert rounds_in(home) == 3

    process = start()
    known = held(6)
    process.kill()  # so that it cannot stop the others
    process.wait()
    assert wait_for(lambda: not processes_of(home))
    # A process is seen no more shortly before its ports are closed.
    assert wait_for(lambda: not any(map(is_open, known)))
    assert rounds_in(home) == 5 and not list(home.glob("*/summary.json"))

    process = start()
    _, said = process.communicate()
    assert process.returncode == 0, said
    (folder,) = home.glob("flower-*/")
    here = simulated(config("fedobp"))
    for name in FILES:
        assert (folder / name).read_bytes() == (here.directory / name).read_bytes()
    traffic = pd.read_csv(folder / "traffic.csv")
    began = traffic[traffic["purpose"] == "begin"].groupby("round").size()
    assert began.to_dict() == {0: CLIENTS, 3: CLIENTS, 5: CLIENTS}
