"""Computing packs of runs in several processes: one a GPU, or a share of the cores each."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import paths
from ..errors import Preempted
from . import preemption
from .computing import Event, Group, Report, name_of

TRIES = 3  # of a pack whose worker ends under it


def default_workers(device: torch.device) -> int:
    """One a GPU; on a CPU one for every eight cores, as one keeps about so many busy."""
    if device.type == "cuda":
        return torch.cuda.device_count()
    return max(1, (os.cpu_count() or 1) // 8)


class Workers:
    """Processes that compute packs of runs.

    A worker that is killed is replaced, and its runs go on from their checkpoints, up to `TRIES`
    times.

    Args:
        count: how many.
        device: `cpu` or `cuda`; each worker has a GPU of its own, as far as there are any, or its
            share of the cores.
        bank: where the rows of clients are kept, see `bank_choice.choose_bank`.
    """

    def __init__(self, count: int, device: str, bank: str = "auto") -> None:
        self._count = count
        self._device = device
        self._bank = bank
        self._events: queue.Queue[Event | None] = queue.Queue()
        self._waiting: deque[tuple[Group, int]] = deque()
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._stopping = False

    def compute(self, groups: Sequence[Group], report: Report) -> None:
        """As `computing.compute`; `report` is called in this thread.

        Raises:
            Preempted: this process was asked to end, and the workers have written checkpoints.
        """
        self._waiting.extend((group, 1) for group in groups)
        threads = [
            threading.Thread(target=self._serve, args=(number,), daemon=True)
            for number in range(min(self._count, len(groups)))
        ]
        for thread in threads:
            thread.start()
        left = len(threads)
        try:
            while left:
                if preemption.asked() and not self._stopping:
                    self._stopping = True
                    for process in list(self._processes.values()):
                        process.send_signal(signal.SIGTERM)
                try:
                    event = self._events.get(timeout=0.2)
                except queue.Empty:
                    continue
                if event is None:
                    left -= 1
                else:
                    report(event)
        finally:
            self._stopping = True
            for process in list(self._processes.values()):
                if process.stdin:
                    process.stdin.close()  # ends it
                process.wait()
        if preemption.asked():
            raise Preempted

    def _serve(self, number: int) -> None:
        """One worker after another, until no pack is left."""
        try:
            while not self._stopping:
                try:
                    group, attempt = self._waiting.popleft()
                except IndexError:
                    return
                ended = self._give(number, group)
                left = [config for config in group if name_of(config) not in ended]
                if not left or self._stopping:
                    continue
                code = self._processes.pop(number).wait()
                if attempt < TRIES:
                    text = f"a worker ended ({_why(code)}); its runs go on in another"
                    self._events.put(Event("", "note", text=text))
                    self._waiting.append((left, attempt + 1))
                else:
                    for config in left:
                        text = f"its worker ended {TRIES} times ({_why(code)})"
                        self._events.put(Event(name_of(config), "failed", text=text))
        finally:
            self._events.put(None)

    def _give(self, number: int, group: Group) -> set[str]:
        """Have a worker compute a pack; returns the ids of those that came to an end."""
        process = self._processes.get(number)
        if process is None or process.poll() is not None:
            process = self._processes[number] = self._start(number)
        assert process.stdin and process.stdout
        ended: set[str] = set()
        order = {
            "group": [asdict(config) for config in group],
            "device": self._device,
            "bank": self._bank,
            "processes": self._count,
        }
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        except OSError:  # it has ended
            return ended
        for line in process.stdout:
            try:
                told: dict[str, Any] = json.loads(line)
            except ValueError:  # it ended in the middle of a line
                break
            if told["kind"] == "idle":
                break
            event = Event(**told)
            if event.kind in ("finished", "failed", "busy"):
                ended.add(event.run)
            self._events.put(event)
        return ended

    def _start(self, number: int) -> subprocess.Popen[str]:
        package = str(Path(__file__).parents[2])
        known = os.environ.get("PYTHONPATH")
        environment = os.environ | {
            "FEDOBP_RUNS": str(paths.runs_dir().absolute()),
            "FEDOBP_DATA": str(paths.data_dir().absolute()),
            "PYTHONPATH": os.pathsep.join([package, known] if known else [package]),
        }
        if self._device.startswith("cuda"):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            gpus = visible.split(",") if visible else range(torch.cuda.device_count())
            environment["CUDA_VISIBLE_DEVICES"] = str(gpus[number % len(gpus)])
        else:
            cores = os.cpu_count() or 1
            environment["OMP_NUM_THREADS"] = str(max(1, cores // self._count))
        return subprocess.Popen(
            [sys.executable, "-m", "fedobp_lib.runs.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
        )


def _why(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
