"""The client's side of Flower: see `flower`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..methods import Message
from ..methods.messages import pack, unpack
from .flower import NPZ, QUIET
from .link import Request

AGAIN = 0.2  # seconds until a client that finds no server tries again


def prepare() -> None:
    """Import what a client needs, so that forks of this process have it."""
    os.environ.update(QUIET)
    from flwr.client import start_client  # noqa: F401


def join(
    address: Callable[[], str],
    properties: dict[str, Any],
    answer: Callable[[Request], Message],
) -> None:
    """Be a client until the server sends it home; where the server is gone, wait for the next.

    Args:
        address: of the server, asked before each try.
        properties: who it is and how many samples it has.
        answer: does what a request asks for. What it raises is told to the server.
    """
    os.environ.update(QUIET)
    from flwr.client import Client, start_client
    from flwr.common import Code, FitIns, FitRes, GetPropertiesRes, Parameters, Status
    from grpc import RpcError

    class Ours(Client):
        def get_properties(self, ins: Any) -> GetPropertiesRes:
            return GetPropertiesRes(Status(Code.OK, ""), properties)

        def fit(self, ins: FitIns) -> FitRes:
            status, message = Status(Code.OK, ""), {}
            options: dict[str, Any] = dict(ins.config)
            try:
                ask, round_ = options.pop("ask"), options.pop("round")
                sent = unpack(b"".join(ins.parameters.tensors))
                message = answer(Request(ask, round_, sent, options))
            except UserError as error:
                status = Status(Code.FIT_NOT_IMPLEMENTED, str(error))
            except Exception as error:  # else Flower would end the connection
                status = Status(Code.FIT_NOT_IMPLEMENTED, f"{type(error).__name__}: {error}")
            return FitRes(status, Parameters([pack(message)], NPZ), 1, {})

    while True:
        try:
            start_client(server_address=address(), client=Ours(), insecure=True)
            return
        except (RpcError, OSError):  # not there yet, or gone
            time.sleep(AGAIN)
