"""A federation on this machine: its folder, each client's share of the data, its processes."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import paths
from ..config import ResolvedConfig, RunConfig
from ..data.images import ImageData
from ..errors import UserError
from ..federation import make_partition
from ..methods import find_method, in_parts
from ..progress import tell
from ..runs.execution import set_damaged_aside, write_config
from ..runs.files import cannot_write, remove_leftovers
from ..runs.lease import leased
from ..runs.store import RunResult, is_finished, load_data, run_id
from .flower import require_flower
from .folder import PrivateFolder
from .shares import write_share
from .supervisor import Command, Supervisor, command

PREFIX = "flower-"  # of the folder; what follows is the id of the simulated run
TIMEOUT = 600.0


def federate(
    config: RunConfig,
    *,
    directory: str | Path | None = None,
    progress: bool | None = None,
    timeout: float = TIMEOUT,
    wait: bool = True,
    command: Command = command,
) -> RunResult:
    """Return the run of a configuration, computed by a server and clients in processes of their
    own; a finished one is not computed again, an interrupted one goes on.

    Args:
        config: what to run.
        directory: folder of all runs; None: `paths.runs_dir()`. The run is in its
            folder `flower-ID`, where ID is that of the simulated run.
        progress: show a bar; None: in a terminal.
        timeout: seconds a client has for an answer; who is later is left out of the round.
        wait: for another process that computes this run; else `Busy` is raised.
        command: how processes are started.

    Raises:
        Busy: see `wait`.
        FederationFailed: no client is left, or a process failed.
        Preempted: this process was asked to end, within `preemption.watching`.
        UserError: the configuration cannot be run, the method cannot be federated, Flower is not
            installed, or the folder cannot be written.
    """
    version = require_flower()
    resolved = config.resolved("cpu")
    check_method(resolved.method)
    for name, none in (("byzantine", "none"), ("delays", 0)):
        if getattr(resolved, name) != none:
            raise UserError(f"a real federation has no {name}: leave it out, or use `fedobp run`")
    if not 0 < timeout < float("inf"):
        raise UserError(f"the timeout must be a number of seconds, got {timeout:g}")
    data = load_data(resolved.dataset)
    home = paths.runs_dir() if directory is None else paths.expanded(directory, "directory")
    folder = home / f"{PREFIX}{run_id(resolved, data)}"
    private = PrivateFolder(folder)
    if is_finished(folder):
        private.remove()  # of a command that was killed at its end
        return RunResult(folder)
    partition = make_partition(resolved, data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with leased(folder, wait) as still_ours:
            remove_leftovers(folder)
            set_damaged_aside(folder)
            if not is_finished(folder):
                write_config(resolved, data, partition, folder)
                private.prepare(resolved.clients, _plan(resolved, data, progress, timeout))
                for client in range(resolved.clients):
                    path = private.of(client) / "data.npz"
                    write_share(path, client, resolved, data, partition)
                if progress is not False:
                    tell(f"federation: 1 server, {resolved.clients} clients, Flower {version}")
                Supervisor(folder, resolved.clients, command).run(still_ours)
            private.remove()
    except OSError as error:
        raise cannot_write(folder, error) from error
    return RunResult(folder)


def check_method(name: str) -> None:
    """Raise UserError unless a method can be taken apart into a server's and a client's part."""
    method = find_method(name)
    if not method.__module__.startswith("fedobp_lib."):
        raise UserError(f"method {name!r} is not part of the kit; other processes do not know it")
    if not in_parts(method):
        raise UserError(
            f"method {name!r} cannot be federated: what its server does is not separate from its "
            "clients (it overrides `finish`)"
        )


def _plan(
    config: ResolvedConfig, data: ImageData, progress: bool | None, timeout: float
) -> dict[str, Any]:
    return {
        "config": asdict(config),
        "shape": data.shape,
        "classes": data.classes,
        "progress": progress,
        "timeout": timeout,
        "secret": secrets.token_hex(16),  # who knows it belongs to this run
    }
