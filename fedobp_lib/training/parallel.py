"""Several clients at a time on a CPU, one thread each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def map_on_threads(work: Callable[[T], R], items: Iterable[T], threads: int) -> list[R]:
    """`work` of every item, in order; `threads` calls at a time, in each PyTorch has one thread.

    Small tensors are too little work to share between cores. As nothing is split between cores,
    the results do not depend on how many there are.

    A single thread is the caller's own, so that what watches its tensors sees the work.

    Args:
        work: must only write to what belongs to its item.
        threads: at least 1.

    Raises:
        Exception: whatever the first failing call raised; calls not begun yet are not made.
    """
    if threads == 1:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return [work(item) for item in items]
        finally:
            torch.set_num_threads(before)
    # The number of threads is set per thread: the caller keeps its own.
    pool = ThreadPoolExecutor(threads, "client", torch.set_num_threads, (1,))
    try:
        return [done.result() for done in [pool.submit(work, item) for item in items]]
    finally:
        pool.shutdown(cancel_futures=True)
