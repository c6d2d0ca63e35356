"""Computing packs of runs on a Ray cluster, one task a pack.

A task tells what happens at a desk, an actor on this node, and hears there that it is to stop. Ray
is asked to retry nothing itself: a pack whose worker or node is gone is given to it anew, without
the runs that had ended, up to `TRIES` times in all.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import paths
from ..config import ResolvedConfig
from ..data.datasets import locate
from ..errors import Preempted, SweepFailed, one_line
from . import preemption
from .computing import Event, Group, Report, name_of
from .lease import Watch
from .packs import MOST
from .ray_folder import environment, received, token
from .ray_task import Desk, Message, Order, compute_pack
from .workers import TRIES

REASONS = {
    "NodeDiedError": "its node is gone",
    "WorkerCrashedError": "its process was killed",
    "OutOfMemoryError": "its node ran out of memory",
}
UNSEEN_SECONDS = 5.0  # until a run that is computed in a folder that is not seen is given anew


@dataclass
class _Pack:
    """A pack on its way: its runs that have not ended, by ids; begun: its task runs."""

    runs: dict[str, ResolvedConfig]
    attempt: int = 1
    number: int = 0
    begun: bool = False


@dataclass
class _Busy:
    """A run that another process computes; watch: its lease, if it is seen from here."""

    pack: _Pack
    watch: Watch | None
    next_look: float


class RayEngine:
    """The `Engine` of a cluster that is connected; see `ray_cluster.cluster`.

    Args:
        ray: the module.
        pack: how many runs are computed as one batch; None: 1 on a CPU, else by memory.
        workers: how many packs are computed at once at most; None: what there is room for.
        bank: where the rows of clients are kept, see `bank_choice.choose_bank`.
        cpus, gpus: of a pack.
    """

    def __init__(
        self, ray: Any, pack: int | None, workers: int | None, bank: str, cpus: int, gpus: float
    ) -> None:
        self._ray = ray
        self._bank = bank
        self._cpus = cpus
        self._gpus = gpus
        self._most = workers or sys.maxsize
        self._divide = pack is None and gpus > 0  # on the node, by its memory
        self.size = pack or (MOST if gpus else 1)
        self._data: dict[str, list[Any]] = {}

    def tell(self, precisions: str) -> None:
        have = self._ray.cluster_resources()
        nodes = sum(node["Alive"] for node in self._ray.nodes())
        parts = [counted(nodes, "node")]
        parts += [counted(have.get(name, 0), name) for name in ("CPU", "GPU")]
        address = self._ray.get_runtime_context().gcs_address
        print(f"Ray at {address}: {', '.join(parts)}; {precisions}", file=sys.stderr)

    def compute(self, groups: Sequence[Group], report: Report) -> None:
        """As `computing.Engine`; nothing is computed on this node but by tasks.

        Raises:
            SweepFailed: the cluster is gone.
        """
        self._home = paths.runs_dir().absolute()
        self._report = report
        self._packs: dict[Any, _Pack] = {}  # by the references to their tasks
        self._busy: list[_Busy] = []
        self._known: set[str] = set()  # runs that were told to be busy
        self._stopping = False
        every = ({name_of(config): config.resolved() for config in group} for group in groups)
        self._waiting = deque(_Pack(runs, number=n) for n, runs in enumerate(every))
        self._given = len(self._waiting)
        self._desk = self._ray.remote(num_cpus=0)(Desk).options(**self._here()).remote()
        asked = {"num_cpus": self._cpus, "num_gpus": self._gpus, "max_retries": 0}
        self._task = self._ray.remote(**asked)(compute_pack)
        self._at_once = min(self._room(), len(self._waiting), self._most)
        with token(self._home) as self._token:
            try:
                while self._waiting or self._packs or self._busy:
                    self._turn()
            except self._ray.exceptions.RayError as error:
                raise SweepFailed(f"the Ray cluster is gone ({one_line(error)})") from error
            finally:
                with suppress(self._ray.exceptions.RayError):
                    for task in self._packs:
                        self._ray.cancel(task, force=True)
                    self._ray.kill(self._desk)
        if preemption.asked():
            raise Preempted

    def _turn(self) -> None:
        """One turn: give what there is room for, take what was told, see what has ended."""
        if preemption.asked() and not self._stopping:
            self._stop()
        while self._waiting and len(self._packs) < self._most:
            self._give(self._waiting.popleft())
        ended: list[Any] = []
        if self._packs:
            ended, _ = self._ray.wait(list(self._packs), timeout=0.2)
        else:
            time.sleep(0.2)
        # What they told is there by now, as a task leaves the desk before it ends.
        by_number = {pack.number: pack for pack in self._packs.values()}
        for number, messages in self._ray.get(self._desk.take.remote()):
            if pack := by_number.get(number):
                pack.begun = True
                for message in messages:
                    self._hear(pack, message)
        for task in ended:
            self._see_off(task, self._packs.pop(task))
        self._look_after_busy()

    def _stop(self) -> None:
        self._stopping = True
        self._waiting.clear()
        self._ray.get(self._desk.stop.remote())
        for task, pack in self._packs.items():
            if not pack.begun:
                self._ray.cancel(task, force=True)

    def _give(self, pack: _Pack) -> None:
        dataset = next(iter(pack.runs.values())).dataset
        order = Order(
            runs=pack.runs,
            device="cuda" if self._gpus else "cpu",
            threads=self._cpus,
            share=self._gpus if self._divide else None,
            bank=self._bank,
            processes=self._at_once,
            environment=environment(self._home),
            token=self._token,
            data=self._data_of(dataset),
        )
        self._packs[self._task.remote(pack.number, order, self._desk)] = pack

    def _again(self, pack: _Pack) -> None:
        """Give a pack anew, under a number of its own, so that no late word of the old is heard."""
        self._waiting.append(replace(pack, number=self._given, begun=False))
        self._given += 1

    def _hear(self, pack: _Pack, message: Message) -> None:
        event = message.event
        if event.kind == "busy":
            self._put_off(_Pack({event.run: pack.runs.pop(event.run)}, pack.attempt), message)
            return
        if event.kind in ("finished", "failed"):
            del pack.runs[event.run]
            event = received(message, self._home)
        self._report(event)

    def _put_off(self, pack: _Pack, message: Message) -> None:
        """Look later at a run that another process computes."""
        event = message.event
        if event.run not in self._known:
            self._known.add(event.run)
            self._report(Event("", "note", text=f"{event.text}; going on with others"))
        watch = Watch(self._home / event.run) if message.home else None
        seconds = 0.0 if watch else UNSEEN_SECONDS
        self._busy.append(_Busy(pack, watch, time.monotonic() + seconds))

    def _see_off(self, task: Any, pack: _Pack) -> None:
        """What is to be done about a task that has ended."""
        try:
            self._ray.get(task)
            why = "it was asked to end"
        except self._ray.exceptions.RayTaskError as error:
            for name in pack.runs:
                self._report(Event(name, "failed", text=one_line(error.cause or error)))
            return
        except self._ray.exceptions.RayError as error:
            why = REASONS.get(type(error).__name__, type(error).__name__)
        if self._stopping or not pack.runs:
            return
        if pack.attempt < TRIES:
            self._report(Event("", "note", text=f"a task ended ({why}); its runs go on in another"))
            self._again(replace(pack, attempt=pack.attempt + 1))
            return
        for name in pack.runs:
            self._report(Event(name, "failed", text=f"its task ended {TRIES} times ({why})"))

    def _look_after_busy(self) -> None:
        for busy in list(self._busy):
            if time.monotonic() < busy.next_look:
                continue
            busy.next_look = time.monotonic() + 1.0
            if self._stopping or busy.watch is None or busy.watch.ended():
                self._busy.remove(busy)
                if not self._stopping:
                    self._again(busy.pack)

    def _data_of(self, dataset: str) -> list[Any]:
        """A reference to the bytes of a data set's file, for nodes that lack it."""
        if dataset not in self._data:
            path = locate(dataset)
            there = [] if path is None else [self._ray.put(np.fromfile(path, np.uint8))]
            self._data[dataset] = there
        return self._data[dataset]

    def _room(self) -> int:
        """How many tasks the largest node has at once."""
        most = 1.0
        for node in self._ray.nodes():
            have = node["Resources"] if node["Alive"] else {}
            room = have.get("CPU", 0) // self._cpus
            if self._gpus:
                room = min(room, have.get("GPU", 0) // self._gpus)
            most = max(most, room)
        return int(most)

    def _here(self) -> dict[str, Any]:
        """Options of an actor that lives on this node."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = self._ray.get_runtime_context().get_node_id()
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def counted(number: float, word: str) -> str:
    """A number with its word: `1 CPU`, `0.5 GPUs`, `no GPU`."""
    if number == 0:
        return f"no {word}"
    return f"{number:g} {word}{'' if number == 1 else 's'}"
