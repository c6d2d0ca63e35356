"""What Flower carries, without a federation: who is let in, who is late, who fails."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
from helpers import ROOT

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]'")

from fedobp_lib.federate.flower import serve
from fedobp_lib.federate.link import Fault, Request

CLIENTS = ROOT / "tests" / "helpers" / "echo_clients.py"
LATE = 0.5  # seconds


@dataclass
class Seen:
    """What the server has seen."""

    missing: list[int] = field(default_factory=list)
    answers: list[dict] = field(default_factory=list)
    wire: list[dict] = field(default_factory=list)


def test_strangers_stay_outside_late_clients_come_back_and_failures_are_told(tmp_path):
    address, release, seen = tmp_path / "address", tmp_path / "release", Seen()
    numbers = torch.arange(1000.0)

    def announce(client, where):
        (tmp_path / f"address.{client}.new").write_text(where)
        (tmp_path / f"address.{client}.new").rename(tmp_path / f"address.{client}")

    def request(number):
        return Request("train", number, {"numbers": numbers * number}, {"option": number})

    def alive(client):
        return False  # it has not ended

    def work(link):
        assert link.wait([0, 1], 300, alive) == []
        assert link.samples == {0: (10, 5), 1: (11, 5)}
        link.timeout = LATE
        seen.answers.append(link.ask({0: request(13)}))
        link.timeout = 300
        seen.answers.append(link.ask({0: request(3), 1: request(3)}))
        release.touch()
        assert link.wait([0, 1], 300, alive) == []
        seen.answers.append(link.ask({0: request(4), 1: request(14)}))
        seen.wire.append(link.wire())
        seen.answers.append(link.ask({0: request(5), 1: request(5)}))
        seen.wire.append(link.wire())
        seen.missing = link.wait([0, 1, 2], 3600, lambda client: client == 2)

    process = subprocess.Popen(
        [sys.executable, CLIENTS, address, release, "secret", "secret", "guessed"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE,
    )  # fmt: skip
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        serve([0, 1, 2], "secret", 60, announce, work)
    finally:
        process.stdin.close()
        process.wait()
    assert seen.missing == [2] and min(seen.wire[0][2]) > len("guessed")  # it was there
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    late, without, failed, both = seen.answers
    assert late == {0: Fault(f"has not answered in {LATE:g} s")}
    assert without[0] == Fault("is gone") and torch.equal(without[1]["numbers"], numbers * 3)
    assert torch.equal(failed[0]["numbers"], numbers * 4)
    assert failed[1] == Fault("has failed: ArithmeticError: the numbers are odd")
    assert all(torch.equal(both[client]["numbers"], numbers * 5) for client in (0, 1))
    before, after = seen.wire
    for client in (0, 1):  # each way the numbers, and little more
        for first, then in zip(before[client], after[client], strict=True):
            assert numbers.nbytes < then - first < numbers.nbytes + 1000
