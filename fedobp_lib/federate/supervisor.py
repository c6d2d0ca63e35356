"""The processes of a federation on this machine: started, watched, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ..errors import FederationFailed, Preempted, UserError
from ..progress import tell
from ..runs import preemption
from ..runs.store import is_finished
from .flower import QUIET
from .folder import PrivateFolder

STARTS = 4  # of the server, in all
GO_HOME = 15.0  # seconds clients have to end after the server

# The command line of a process, of its role and what follows it.
Command = Callable[[str, Sequence[str]], list[str]]


def command(role: str, rest: Sequence[str]) -> list[str]:
    """How a server or clients are started."""
    return [sys.executable, "-m", "fedobp_lib.federate.roles", role, *rest]


class Supervisor:
    """Starts a server and its clients, and ends them.

    A server that is killed is started again, and the clients come to the new one. A client that
    has ended stays away.

    Args:
        run: the folder of the run, with the private one in it.
        clients: how many.
        command: how processes are started.
    """

    def __init__(self, run: Path, clients: int, command: Command) -> None:
        self._run = run.absolute()
        self._private = PrivateFolder(self._run)
        self._numbers = range(clients)
        self._command = command
        self._clients: subprocess.Popen[str] | None = None  # the process that starts them
        self._server: subprocess.Popen[str] | None = None
        self._ended: dict[int, int] = {}  # exit codes of clients
        self._listening: threading.Thread | None = None

    def run(self, still_ours: Callable[[], None]) -> None:
        """Until the server is done; whatever happens, no process stays.

        Args:
            still_ours: called now and then; what it raises is raised here.

        Raises:
            FederationFailed: the server has failed, or a client cannot be run.
            Preempted: this process was asked to end, and the server has written a checkpoint.
            UserError: the configuration cannot be run.
        """
        try:
            # One thread of its own is all that a client computes with.
            self._clients = self._start("clients", self._numbers, {"OMP_NUM_THREADS": "1"})
            self._listening = threading.Thread(target=self._listen, args=[self._clients])
            self._listening.daemon = True
            self._listening.start()
            for left in reversed(range(STARTS)):
                code = self._serve(still_ours)
                if code >= 0 or not left or preemption.asked():
                    break
                how = signal.Signals(-code).name
                _clear_bar()
                tell(f"the server was ended by {how}; a new one goes on from its checkpoint")
            self._judge(code)
            self._listening.join(GO_HOME)
        finally:
            self._end()

    def _start(
        self, role: str, numbers: Sequence[int], environment: dict[str, str]
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command(role, [str(self._run), *map(str, numbers)]),
            env=os.environ | QUIET | {"FLWR_HOME": str(self._private.flower)} | environment,
            stdin=subprocess.PIPE,  # its end tells them that this process is gone
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C goes to this process alone
        )

    def _listen(self, clients: subprocess.Popen[str]) -> None:
        """Take down which clients have ended, until all have."""
        assert clients.stdout is not None
        for line in clients.stdout:
            number, code = map(int, line.split())
            self._ended[number] = code
            self._private.note_end(number)

    def _serve(self, still_ours: Callable[[], None]) -> int:
        """Start the server and wait for its end; returns its exit code."""
        assert self._clients is not None
        self._release(self._server)
        there = [client for client in self._numbers if client not in self._ended]
        server = self._server = self._start("server", there, {})
        asked = False
        while True:
            with suppress(subprocess.TimeoutExpired):
                return server.wait(0.1)
            still_ours()
            if preemption.asked() and not asked:
                asked = True
                server.send_signal(signal.SIGTERM)
            for client, code in list(self._ended.items()):
                if code > 0:  # not killed
                    why = self._private.last_words(client)
                    raise FederationFailed(f"client {client} has ended: {why}")
            if self._clients.poll():
                raise FederationFailed("the process that started the clients was ended")

    def _judge(self, code: int) -> None:
        """Raise what became of the server, unless its run is finished."""
        if code == 0 and is_finished(self._run):
            return
        if preemption.asked():
            raise Preempted
        if code < 0:
            raise FederationFailed(f"the server was ended {STARTS} times")
        if not self._private.reason.is_file():
            raise FederationFailed("the server has failed; its last words are above")
        reason = self._private.reason.read_text(encoding="utf-8").strip()
        raise (UserError if code == 2 else FederationFailed)(reason)

    def _end(self) -> None:
        """End all that still run, and wait until they are gone."""
        if self._server and self._server.poll() is None:
            _kill_group(self._server)
            self._server.wait()
            _clear_bar()
        # Clients are forks of their first process; while any lives, it is listened to.
        if self._clients and (
            self._clients.poll() is None or (self._listening and self._listening.is_alive())
        ):
            _kill_group(self._clients)
        if self._listening:
            self._listening.join()
        self._release(self._server)
        self._release(self._clients)

    def _release(self, process: subprocess.Popen[str] | None) -> None:
        """Wait for a process that has ended, and close the pipes to it."""
        if process:
            process.wait()
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            process.stdout.close()


def _clear_bar() -> None:
    """Empty the line of a terminal on which a server that is gone had its bar."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
