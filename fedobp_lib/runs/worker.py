"""A worker process of a sweep: reads packs of runs, a line each, and writes what happens to them.

Started by `workers.Workers` as `python -m fedobp_lib.runs.worker`. When its standard input ends,
because the sweep is over or its process is gone, it ends at once; checkpoints stay.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict
from typing import Any, TextIO

from ..config import RunConfig
from ..errors import PREEMPTED, Preempted
from . import preemption
from .computing import Event, compute


def main() -> int:
    """Serve until standard input ends; returns the exit code."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends this
    orders: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    lock = threading.Lock()

    def report(event: Event) -> None:
        with lock:
            _say(answers, asdict(event))

    with preemption.watching():
        try:
            while not preemption.asked():
                try:
                    order = orders.get(timeout=0.5)
                except queue.Empty:
                    continue
                group = [RunConfig(**config) for config in order["group"]]
                compute([group], order["device"], report, order["bank"], order["processes"])
                _say(answers, {"kind": "idle"})
        except Preempted:
            pass
    return PREEMPTED


def _listen(orders: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


def _say(answers: TextIO, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
