"""Processes forked after the kit has computed, as by `multiprocessing.Pool` on Linux."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from fedobp_lib import UserError
from fedobp_lib.training.backends import choose_device

if "fork" not in multiprocessing.get_all_start_methods():
    pytest.skip("this system does not fork", allow_module_level=True)

HEAD = """
import multiprocessing, os, threading, torch
from fedobp_lib import RunConfig, run
torch.set_num_threads(2)

def accuracy(seed, **changes):
    size = {"clients": 6, "participation": 0.5, "rounds": 2, "local_epochs": 1}
    return run(RunConfig(**(size | changes), seed=seed), progress=False).accuracy()
"""

POOL = """
before = accuracy(0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map(accuracy, [0, 1, 2])
assert found[0] == before and torch.get_num_threads() == 2
os.environ["FEDOBP_RUNS"] += "-again"
print(found == [accuracy(seed) for seed in range(3)])
"""

WHILE_COMPUTING = """
began = threading.Event()
def on_round(simulation):
    began.set()
endless = RunConfig(rounds=1000, eval_every=1000)
threading.Thread(
    target=run, args=(endless,), kwargs={"on_round": on_round, "progress": False}, daemon=True
).start()
began.wait()
child = os.fork()
if child == 0:
    try:
        accuracy(0)
    except ValueError as error:
        print(type(error).__name__, error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
os._exit(0)
"""

LOCKS_HELD = """
from fedobp_lib.data.images import _COPYING
from fedobp_lib.models.networks import _RANDOM_STATE
held, done = threading.Event(), threading.Event()
def hold():
    with _COPYING, _RANDOM_STATE:
        held.set()
        done.wait(1)
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if child == 0:
    print(accuracy(0) > 0, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def printed(code):
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + code], stdout=pipe, stderr=pipe, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, error = process.communicate(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it forked, if that hangs
    assert process.returncode == 0, error
    return out.strip()


def test_a_pool_computes_after_a_run_and_gives_the_same():
    assert printed(POOL) == "True"


def test_forked_while_another_thread_computes_it_is_told():
    told = printed(WHILE_COMPUTING)
    assert told.startswith("UserError this process was forked while another thread was computing")
    assert "\n" not in told


def test_a_gpu_cannot_be_used_any_more(monkeypatch):
    """As PyTorch says itself, where a GPU is; here one is pretended."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda._is_in_bad_fork", lambda: True)
    with pytest.raises(UserError, match="forked after PyTorch looked for a GPU"):
        choose_device("auto")
    assert choose_device("cpu").type == "cpu"


def test_a_lock_that_another_thread_held_is_free():
    assert printed(LOCKS_HELD) == "True"
