"""A task of a sweep on a Ray cluster: computes a pack on whatever node it is, and tells the sweep.

The node sees the sweep's run folder or not: the sweep has a token there, and the task looks for it.
Where it is not seen, the node computes in a folder of its own and sends finished runs as archives.
"""

from __future__ import annotations

import os
import queue
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import TextIOBase
from pathlib import Path
from typing import Any

import torch

from .. import paths
from ..config import ResolvedConfig, RunConfig
from ..errors import Preempted, UserError
from ..training.backends import choose_device
from . import preemption
from .archive import export_runs
from .computing import LOG, Event, compute, name_of, pointer
from .files import write
from .packs import fitting, packs

SECONDS = 0.3  # between two words to the sweep


@dataclass(frozen=True)
class Order:
    """What a node has to know.

    Attributes:
        runs: the pack, by ids; partition files that were read are within.
        device: `cpu` or `cuda`.
        threads: of a task that computes on a CPU.
        share: of a GPU's memory by which the pack is divided further; None: it is not.
        bank: where the rows of clients are kept, see `bank_choice.choose_bank`.
        processes: how many tasks a node may have at once.
        environment: variables of the sweep that count on the node, except where it has its own.
        token: a file in the sweep's run folder.
        data: a reference to the bytes of the data set's file; none where there is no file.
    """

    runs: dict[str, ResolvedConfig]
    device: str
    threads: int
    share: float | None
    bank: str
    processes: int
    environment: dict[str, str]
    token: str
    data: Sequence[Any]


@dataclass(frozen=True)
class Message:
    """What a task tells.

    Attributes:
        event: what happened.
        home: whether the sweep sees the run folder itself.
        archive: a finished run that it does not see.
        log: of a failed run that it does not see.
    """

    event: Event
    home: bool = True
    archive: bytes = b""
    log: str = ""


class Desk:
    """Where tasks and their sweep meet: an actor on the sweep's node."""

    def __init__(self) -> None:
        self._told: list[tuple[int, list[Message]]] = []
        self._stopping = False

    def tell(self, number: int, messages: list[Message]) -> bool:
        """Leave messages of the task of this number; returns whether it is to stop."""
        self._told.append((number, messages))
        return self._stopping

    def take(self) -> list[tuple[int, list[Message]]]:
        """What was told since the last time."""
        told, self._told = self._told, []
        return told

    def stop(self) -> None:
        """Have every task write checkpoints and end."""
        self._stopping = True


def compute_pack(number: int, order: Order, desk: Any) -> None:
    """Compute the runs of an order; what becomes of them is told at the desk.

    Raises:
        UserError: the node has another data set of this name, or cannot be written to.
    """
    # `watching` comes first, since it forgets what was asked before.
    with preemption.watching(), _line(number, desk) as tell, _surroundings(order) as home:
        names = [name_of(config) for config in order.runs.values()]
        if names != list(order.runs):
            raise UserError(
                f"node {socket.gethostname()} has another version of the kit or of the data set "
                f"{_dataset(order)!r}"
            )
        where = choose_device(order.device)
        torch.set_num_threads(order.threads)
        runs: list[RunConfig] = list(order.runs.values())
        groups = [runs]
        if order.share is not None:
            groups = packs(runs, fitting(where, order.bank, order.share))
        report = partial(_tell, tell=tell, home=home)
        try:
            with redirect_stderr(_Notes(tell)):
                compute(groups, order.device, report, order.bank, order.processes)
        except Preempted:
            pass


@contextmanager
def _line(number: int, desk: Any) -> Iterator[Any]:
    """The line to the sweep: a function that sends a message. Hears meanwhile whether to stop."""
    import ray

    waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()
    ended = threading.Event()

    def send() -> None:
        messages = [waiting.get() for _ in range(waiting.qsize())]
        if ray.get(desk.tell.remote(number, messages)):
            preemption.ask()

    def talk() -> None:
        try:
            while not ended.wait(SECONDS):
                send()
        except ray.exceptions.RayError:  # the sweep is gone
            preemption.ask()

    send()
    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        yield waiting.put
    finally:
        ended.set()
        thread.join()
        send()


@contextmanager
def _surroundings(order: Order) -> Iterator[bool]:
    """Within, the environment is for this node; yields whether the sweep sees its run folder."""
    before = {name: os.environ.get(name) for name in order.environment}
    try:
        for name, value in order.environment.items():
            os.environ.setdefault(name, value)
        home = (paths.runs_dir() / order.token).is_file()
        if not home and before["FEDOBP_RUNS"] is None:
            del os.environ["FEDOBP_RUNS"]  # the sweep's folder is not here
        _have_data(order, own=before["FEDOBP_DATA"] is not None)
        yield home
    finally:
        for name, old in before.items():
            os.environ.pop(name, None)
            if old is not None:
                os.environ[name] = old


def _have_data(order: Order, own: bool) -> None:
    """Have the data set's file here: it was, or comes with the order."""
    if not order.data:
        return
    name = f"{_dataset(order)}.npz"
    if not own and not (paths.data_dir() / name).is_file():
        del os.environ["FEDOBP_DATA"]
    path = paths.data_dir() / name
    if path.is_file():
        return
    import ray

    content = ray.get(order.data[0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, lambda file: file.write(content.data))
    except OSError as error:
        raise UserError(
            f"node {socket.gethostname()} cannot write {path}: {error.strerror}; "
            "set FEDOBP_DATA there"
        ) from error


def _dataset(order: Order) -> str:
    return next(iter(order.runs.values())).dataset


def _tell(event: Event, tell: Any, home: bool) -> None:
    """Tell of an event, with what the sweep does not see of it."""
    folder = paths.runs_dir() / event.run
    if home or event.kind not in ("finished", "failed"):
        tell(Message(event, home))
    elif event.kind == "finished":
        with tempfile.TemporaryDirectory() as temporary:
            target = Path(temporary) / "run.tar.gz"
            export_runs([folder], target)
            tell(Message(event, home, archive=target.read_bytes()))
    else:
        log = folder / LOG
        text = log.read_text(encoding="utf-8") if log.is_file() else ""
        reason = event.text.removesuffix(pointer(log))
        tell(Message(Event(event.run, "failed", text=reason), home, log=text))


class _Notes(TextIOBase):
    """Standard error, whose lines become notes to the sweep."""

    def __init__(self, tell: Any) -> None:
        self._tell = tell
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._tell(Message(Event("", "note", text=line)))
        return len(text)
