"""A federation that goes wrong where the environment says: a program, run by tests.

    faulty_process server|clients ...    a process of a federation
    faulty_process federate ...          `fedobp federate`, of such processes

`FAULTS` is JSON: {"1@3": "die"} for client 1 in round 3; `nan` and `shape` spoil its answer.
{"server@5": "die"} is for the server, which there may also `hold` until it is asked to end; both
once, as the file `server@5` in the folder of the run then tells.
"""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch

from fedobp_lib.cli import main as command_line
from fedobp_lib.federate import launch, roles
from fedobp_lib.federate.client import Client
from fedobp_lib.federate.server import Server
from fedobp_lib.runs import preemption

FAULTS = json.loads(os.environ["FAULTS"])


def command(role, rest):
    """How processes are started that go wrong."""
    return [sys.executable, __file__, role, *rest]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FaultyClient(Client):
    def train(self, request):
        fault = FAULTS.get(f"{self.one.item()}@{request.round}")
        if fault == "die":
            die()
        answer = super().train(request)
        if fault == "nan":
            answer["model"] = answer["model"].clone()  # what it keeps itself is as it was
            answer["model"][7] = torch.nan
        if fault == "shape":
            answer["model"] = answer["model"][:-1]
        return answer


class FaultyServer(Server):
    def _take_round(self, clients):
        super()._take_round(clients)
        where = f"server@{self.round}"
        fault, once = FAULTS.get(where), Path(sys.argv[2]) / where
        if fault and not once.exists():
            once.touch()
            if fault == "die":
                die()
            while not preemption.asked():
                time.sleep(0.01)


if __name__ == "__main__":
    if sys.argv[1] == "federate":
        launch.federate = partial(launch.federate, command=command)
        sys.exit(command_line())
    roles.main(client=FaultyClient, server=FaultyServer)
