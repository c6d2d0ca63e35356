"""The server's side of Flower, which carries the messages; the client's is `flower_client`. Nothing
else imports it.

A client is one live process with one stream to the server (`start_client`, `start_server`), so that
its death is noticed at once. Flower calls these two deprecated since its version 1.13, in favour of
SuperLink and SuperNodes, which start a process for each message; who moves there exchanges this.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import UserError
from ..methods import Message
from ..methods.messages import pack, unpack
from .link import Fault, Request
from .relay import HERE, Relay

# Read by Flower when it is imported: no telemetry, no look for updates, no banners; and by gRPC:
# no proxy on the way to this machine itself.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_LOG_LEVEL": "CRITICAL",
    "no_grpc_proxy": HERE,
}
ASK_WHO = 20.0  # seconds a new client has to say who it is
GOODBYE = 10.0  # seconds a client has to go home
NPZ = "npz"  # what the bytes of a message are
TRIES = 3  # ports, in case another process takes one between the choice and its use
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


def flower_is_here() -> bool:
    """Whether Flower is installed."""
    return importlib.util.find_spec("flwr") is not None


def require_flower() -> str:
    """Flower's version.

    Raises:
        UserError: it is not installed.
    """
    if not flower_is_here():
        raise UserError("this needs Flower: pip install -e '.[flower]' in the kit's folder")
    from importlib.metadata import version

    return version("flwr")


def serve(
    clients: Sequence[int],
    secret: str,
    patience: float,
    announce: Callable[[int, str], None],
    work: Callable[[FlowerLink], None],
) -> None:
    """Be the server while `work` talks to the clients; then they are sent home.

    Args:
        clients: their numbers.
        secret: what a client must know to be let in.
        patience: seconds a client has for an answer.
        announce: called with the address for each client.
        work: what is done; whatever it raises is raised here.
    """
    os.environ.update(QUIET)
    from flwr.server import History, Server, ServerConfig, SimpleClientManager, start_server

    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    class Ours(Server):
        raised: BaseException | None = None
        runs = False
        port = 0

        def fit(self, num_rounds: int, timeout: float | None) -> tuple[Any, float]:
            self.runs = True
            for number, handler in handlers.items():  # Flower has put its own there
                signal.signal(number, handler)
            relays = {client: Relay(self.port) for client in clients}
            for client, relay in relays.items():
                announce(client, relay.address)
            try:
                work(FlowerLink(self.client_manager(), relays, secret, patience))
            except BaseException as error:
                self.raised = error
            for relay in relays.values():
                relay.close()
            return History(), 0.0

    server = Ours(client_manager=SimpleClientManager())
    for left in reversed(range(TRIES)):
        server.port = _free_port()
        try:
            start_server(
                server_address=f"{HERE}:{server.port}",
                server=server,
                config=ServerConfig(num_rounds=1, round_timeout=GOODBYE),
            )
            break
        except (RuntimeError, OSError, SystemExit):  # the port is taken
            if server.runs or not left:
                raise
    if server.raised is not None:
        raise server.raised


class FlowerLink:
    """See `Link`.

    Args:
        manager: Flower's, which knows who is connected.
        relays: of each client.
        secret: what a client must know.
        timeout: seconds a client has for an answer.

    Attributes:
        samples: of each client that has been here, how many training and test samples it has.
        timeout: may be changed between requests.
    """

    def __init__(
        self, manager: Any, relays: Mapping[int, Relay], secret: str, timeout: float
    ) -> None:
        self.samples: dict[int, tuple[int, int]] = {}
        self._manager = manager
        self._relays = relays
        self._secret = secret
        self.timeout = timeout
        self._known: dict[str, int] = {}  # numbers by the ids of connections
        self._gone: set[str] = set()

    def wait(
        self, clients: Sequence[int], seconds: float, ended: Callable[[int], bool]
    ) -> list[int]:
        """Wait until clients are here; returns those that are not.

        Args:
            clients: for whom.
            seconds: how long.
            ended: whether there is no use in waiting for a client.
        """
        end = time.monotonic() + seconds
        while True:
            missing = sorted(set(clients) - set(self.here()))
            if all(map(ended, missing)) or time.monotonic() > end:
                return missing
            time.sleep(0.02)

    def here(self) -> list[int]:
        return sorted(self._proxies())

    def ask(self, requests: Mapping[int, Request]) -> dict[int, Message | Fault]:
        if not requests:
            return {}
        proxies = self._proxies()
        with ThreadPoolExecutor(len(requests)) as pool:
            asked = {
                client: pool.submit(self._answer, proxies.get(client), request)
                for client, request in requests.items()
            }
            return {client: answer.result() for client, answer in asked.items()}

    def wire(self) -> dict[int, tuple[int, int]]:
        return {client: (relay.down, relay.up) for client, relay in self._relays.items()}

    def _answer(self, proxy: Any, request: Request) -> Message | Fault:
        from flwr.common import Code, FitIns, Parameters

        if proxy is None:
            return Fault("is gone")
        wanted: dict[str, Any] = {"ask": request.ask, "round": request.round, **request.options}
        began = time.monotonic()
        try:
            sent = FitIns(Parameters([pack(request.message)], NPZ), wanted)
            answer = proxy.fit(sent, self.timeout, None)
        except Exception:  # its connection has ended, or Flower ends it as it is late
            self._gone.add(proxy.cid)
            late = time.monotonic() - began >= self.timeout
            return Fault(f"has not answered in {self.timeout:g} s" if late else "is gone")
        if answer.status.code is not Code.OK:
            return Fault(f"has failed: {answer.status.message}")
        try:
            return unpack(b"".join(answer.parameters.tensors))
        except ValueError as error:
            return Fault(f"is refused: {error}")

    def _proxies(self) -> dict[int, Any]:
        """The connections by the clients' numbers; who is new is asked who it is."""
        from flwr.common import GetPropertiesIns

        # A copy, as others come and go in threads of Flower's meanwhile.
        present = {c: p for c, p in self._manager.all().copy().items() if c not in self._gone}
        for cid in present.keys() - self._known.keys():
            try:
                said = present[cid].get_properties(GetPropertiesIns({}), ASK_WHO, None).properties
                if said["secret"] != self._secret or said["client"] not in self._relays:
                    raise ValueError("it is not one of ours")
                self.samples[said["client"]] = said["train_samples"], said["test_samples"]
            except Exception:  # gone again, or a stranger
                self._gone.add(cid)
                continue
            self._known[cid] = said["client"]
        return {self._known[cid]: p for cid, p in present.items() if cid not in self._gone}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return probe.getsockname()[1]
