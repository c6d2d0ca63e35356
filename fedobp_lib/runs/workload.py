"""How many samples a run sees, known before it is computed.

Clients differ much in size, and cohorts are drawn, so rounds take very different times. But who is
drawn in which round follows from the settings.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..config import ResolvedConfig
from ..data.clients import sample_cohort
from ..data.partition import Partition
from ..federation import make_partition
from ..simulation import GROUP
from .store import load_data

# Settings of which the split, and then the samples of the rounds, are made.
SPLIT = ("dataset", "clients", "alpha", "partition", "partition_seed", "test_share", "min_samples")
ROUNDS = ("seed", "participation", "rounds", "eval_every", "eval_after", "eval_cohort")


@dataclass(frozen=True)
class Workload:
    """Samples of the busiest thread.

    Attributes:
        train: in the local training of the rounds, counted once for all epochs.
        tuned: where all clients are fine-tuned, likewise.
        test: in all tests.
    """

    train: float = 0.0
    tuned: float = 0.0
    test: float = 0.0

    def __add__(self, other: Workload) -> Workload:
        both = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return Workload(*(a + b for a, b in both))


class Workloads:
    """The work of runs; of those that share split and cohorts it is computed once.

    Args:
        threads: see `span`.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = threads
        self._known: dict[tuple, Any] = {}

    def __call__(self, config: ResolvedConfig) -> Workload:
        """The work of a whole run."""
        key = tuple(getattr(config, name) for name in (*SPLIT, *ROUNDS))
        if key not in self._known:
            self._known[key] = self._of_run(config)
        return self._known[key]

    def _of_run(self, config: ResolvedConfig) -> Workload:
        partition = self._partition(config)
        total = Workload()
        for number in range(1, config.rounds + 1):
            total += round_work(config, partition, number, self.threads)
        groups = [slice(first, first + GROUP) for first in range(0, config.clients, GROUP)]
        train, test = (
            sum(span(counts[group], self.threads) for group in groups)
            for counts in _counts(partition)
        )
        tests = math.ceil(config.rounds / config.eval_every)
        tuned = {"final": 1, "always": tests, "never": 0}[config.eval_after]
        return total + Workload(tuned=tuned * train, test=(tests + tuned) * test)

    def _partition(self, config: ResolvedConfig) -> Partition:
        key = tuple(getattr(config, name) for name in SPLIT)
        if key not in self._known:
            self._known[key] = make_partition(config, load_data(config.dataset))
        return self._known[key]


def round_work(
    config: ResolvedConfig, partition: Partition, number: int, threads: int | None
) -> Workload:
    """The work of a round; where the cohort is tested, it is so twice."""
    cohort = sample_cohort(config.seed, number, config.clients, config.cohort_size)
    train, test = (span(counts[cohort], threads) for counts in _counts(partition))
    tested = number == config.rounds or number % config.eval_cohort == 0
    return Workload(train=train, test=2 * test * tested)


def span(counts: Sequence[int] | np.ndarray, threads: int | None) -> int:
    """Samples of the thread with most of them, where each takes the largest client that is left.

    Args:
        counts: of the clients.
        threads: how many; None: a GPU, where all samples count.
    """
    busy = [0] * (threads or 1)
    for count in sorted(map(int, counts), reverse=True):
        heapq.heappush(busy, heapq.heappop(busy) + count)
    return max(busy)


def _counts(partition: Partition) -> tuple[np.ndarray, np.ndarray]:
    return np.diff(partition.train_offsets), np.diff(partition.test_offsets)
