"""The Ray cluster that a sweep computes on: one that is there, or one started for the while."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from ..errors import UserError, one_line
from .ray_engine import RayEngine, counted


@contextmanager
def cluster(
    device: str,
    pack: int | None,
    workers: int | None,
    bank: str,
    cpus: int | None,
    gpus: float | None,
) -> Iterator[RayEngine]:
    """The cluster at `$RAY_ADDRESS`, or one that is started on this machine for the while.

    Where the process has a connection to a cluster already, that is taken and left open.

    Args:
        device: `auto`, `cpu` or `cuda`.
        pack: how many runs are computed as one batch; None: 1 on a CPU, else by memory.
        workers: how many packs are computed at once at most; None: as many as there is room for.
        bank: where the rows of clients are kept, see `bank_choice.choose_bank`.
        cpus: of a pack, and its threads; None: 1.
        gpus: of a pack, at most 1; None: 1 where the cluster has any.

    Raises:
        UserError: Ray is not installed, there is no cluster, a number makes no sense, or this
            machine has not what a pack needs; a cluster may come to have it, which is waited for.
    """
    _check(device, cpus, gpus)
    ray = _imported()
    address = os.environ.get("RAY_ADDRESS")
    connected = ray.is_initialized()
    # Ray prints there what it thinks of nodes that die; the notes of the sweep say it in a line.
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        if not connected:
            _connect(ray, address)
        try:
            if gpus is None:
                there = ray.cluster_resources().get("GPU", 0)
                gpus = 1.0 if device == "cuda" or (device == "auto" and there) else 0.0
            lack = _lack(ray.nodes(), {"CPU": cpus or 1, "GPU": gpus})
            if lack and not address and not connected:
                raise UserError(lack)
            if lack:
                print(f"{lack}; waiting for one that does", file=sys.stderr)
            yield RayEngine(ray, pack, workers, bank, cpus or 1, gpus)
        finally:
            if not connected:
                ray.shutdown()


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # A cluster of this machine alone listens on the loopback interface only, on any system.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise UserError("the engine ray needs Ray: pip install 'fedobp[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    more = {} if address else {"include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        host, colon, port = (address or "").rpartition(":")
        if colon and port.isdecimal() and "/" not in host:
            # Ray would try for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address or "local", log_to_driver=False, logging_level="CRITICAL", **more)
    except Exception as error:  # of many kinds: no address, nobody there, another version
        where = f"no Ray cluster at RAY_ADDRESS={address}" if address else "Ray does not start"
        raise UserError(f"{where}: {one_line(error)}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put its own there


def _check(device: str, cpus: int | None, gpus: float | None) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"on Ray the device is auto, cpu or cuda, not {device!r}")
    if cpus is not None and cpus < 1:
        raise UserError(f"cpus_per_pack must be at least 1, got {cpus}")
    if gpus is not None and not 0 <= gpus <= 1:
        raise UserError(f"gpus_per_pack must lie in [0, 1], got {gpus}")
    if (device == "cpu" and gpus) or (device == "cuda" and gpus == 0):
        raise UserError(f"gpus_per_pack={gpus:g} does not go with the device {device}")


def _lack(nodes: Sequence[Mapping[str, Any]], needed: Mapping[str, float]) -> str | None:
    """What is said if no node has as much as a pack needs."""
    for node in nodes:
        if node["Alive"] and all(node["Resources"].get(n, 0) >= c for n, c in needed.items()):
            return None
    what = " and ".join(counted(count, name) for name, count in needed.items() if count)
    return f"no node of the Ray cluster has {what}"
