"""What one process of a federation does: `python -m fedobp_lib.federate.roles`.

    roles server RUN CLIENT...     the numbers of the clients that will come
    roles client RUN CLIENT
    roles clients RUN CLIENT...    each in a process of its own

RUN is the folder of the run. A process ends when the one that has started it does, as the end of
its standard input then closes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..config import ResolvedConfig
from ..errors import PREEMPTED, FederationFailed, Preempted, UserError
from ..methods import make_method
from ..progress import tell
from ..runs import preemption
from ..runs.checkpoints import Checkpoint
from ..runs.execution import save_result, take_rounds
from ..runs.files import write_csv
from .client import Client
from .flower import FlowerLink, require_flower, serve
from .flower_client import join, prepare
from .folder import PrivateFolder
from .server import Server
from .shares import client_federation, server_federation

COME = 120.0  # seconds clients have to come


def be_server(run: Path, clients: list[int], kind: type[Server] = Server) -> None:
    """Be the server until the run is finished.

    Raises:
        FederationFailed: it cannot go on.
        Preempted: it was asked to end; a checkpoint is written.
        UserError: the configuration cannot be run, or the folder cannot be written.
    """
    private = PrivateFolder(run)
    plan = private.plan()
    config = ResolvedConfig(**plan["config"])

    def work(link: FlowerLink) -> None:
        with preemption.watching():
            missing = link.wait(clients, COME, private.has_ended)
            if missing == clients:
                raise FederationFailed("no client has come")
            for client in missing:
                tell(f"client {client} has not come; the run goes without it")
            samples = private.known_samples(link.samples)
            federation = server_federation(config, samples, tuple(plan["shape"]), plan["classes"])
            method = make_method(config.method, federation, config.settings)
            server = kind(config, method, link, tell)
            checkpoint = Checkpoint(run / "checkpoint.pt")
            checkpoint.restore(server)
            server.begin()
            take_rounds(server, plan["progress"], None, checkpoint, lambda: None)
            write_csv(run / "traffic.csv", server.tally.frame())
            made = {
                "backend": "flower",
                "flower": require_flower(),
                "processes": 1 + config.clients,
            }
            save_result(server, run, made, faults=server.faults)
            checkpoint.remove()

    serve(clients, plan["secret"], plan["timeout"], private.announce, work)


def be_client(run: Path, number: int, kind: type[Client] = Client) -> None:
    """Be a client until the server sends it home."""
    torch.set_num_threads(1)
    private = PrivateFolder(run)
    plan, own = private.plan(), private.of(number)
    config = ResolvedConfig(**plan["config"])
    federation = client_federation(own / "data.npz", number, config)
    client = kind(number, lambda: make_method(config.method, federation, config.settings), own)
    partition = federation.data.partition
    properties = {
        "client": number,
        "secret": plan["secret"],
        "train_samples": len(partition.train(number)),
        "test_samples": len(partition.test(number)),
    }
    join(lambda: private.address(number), properties, client.answer)


def start_clients(run: Path, numbers: list[int], kind: type[Client] = Client) -> None:
    """Have clients, each in a process of its own, and print of each at its end: number, exit code.

    On Linux they are forks of this process, which has imported all that they need: a client then
    takes a fraction of the time to start, and of the memory. Nothing may have threads before.
    """
    prepare()
    private, pids = PrivateFolder(run), {}
    for number in numbers:
        with open(private.of(number) / "log", "wb") as log:
            if sys.platform != "linux":
                program = sys.orig_argv[: -len(numbers) - 2]
                one = [*program, "client", str(run), str(number)]
                pid = subprocess.Popen([sys.executable, *one[1:]], stderr=log).pid
            elif (pid := os.fork()) == 0:
                os.dup2(log.fileno(), 2)
                sys.stdout = sys.stderr
                os._exit(do("client", run, [number], client=kind))
        (private.of(number) / "pid").write_text(f"{pid}\n", encoding="utf-8")
        pids[pid] = number
    while pids:
        pid, status = os.wait()
        print(pids.pop(pid), os.waitstatus_to_exitcode(status), flush=True)


def do(
    role: str,
    run: Path,
    numbers: list[int],
    client: type[Client] = Client,
    server: type[Server] = Server,
) -> int:
    """Be a `server`, a `client` or `clients`; returns the exit code."""
    try:
        if role == "clients":
            start_clients(run, numbers, client)
        else:
            _end_with_parent()
            if role == "client":
                be_client(run, numbers[0], client)
            else:
                be_server(run, numbers, server)
    except (UserError, FederationFailed) as error:
        if role == "server":
            PrivateFolder(run).reason.write_text(f"{error}\n", encoding="utf-8")
        else:  # whose standard error is its log
            tell(str(error))
        return 2 if isinstance(error, UserError) else 1
    except Preempted:
        return PREEMPTED
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def main(**kinds: Any) -> None:
    """Do what the command line says, and end at once: threads of gRPC may still wait.

    Args:
        kinds: `client` and `server`, classes to be used in place of the ordinary ones.
    """
    role, run, *numbers = sys.argv[1:]
    code = do(role, Path(run), [int(number) for number in numbers], **kinds)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _end_with_parent() -> None:
    def wait() -> None:
        with suppress(OSError):
            os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main()
