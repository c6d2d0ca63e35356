"""Stretches of steps: every batch of every client once, in order."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedobp_lib.training.plan import STRETCHES, BatchPlan

NOTHING = torch.zeros(0)


def plan_of(counts, size):
    counts = np.sort(np.array(counts))[::-1].copy()
    steps = -(-int(counts[0]) // size)
    index = torch.zeros(1, steps, len(counts), size)
    return BatchPlan(NOTHING, counts, size, 1, index, NOTHING, NOTHING, NOTHING, NOTHING)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(1, 9), st.booleans())
def test_stretches_hold_every_batch_of_every_client_once_and_in_order(counts, size, exact):
    plan = plan_of(counts, size)
    taken = [[] for _ in counts]
    for stretch in plan.stretches(exact):
        assert stretch.steps in STRETCHES
        for number in range(stretch.first, stretch.first + stretch.steps):
            for client in range(stretch.rows.start, stretch.rows.stop):
                taken[client].append((number, stretch.samples))
    for client, count in enumerate(plan.counts):
        batches = [min(size, count - start) for start in range(0, count, size)]
        if exact:  # of their own length; one sample has no batch statistics
            wanted = [(n, b) for n, b in enumerate(batches) if b == size or b > 1]
        else:
            wanted = [(n, size) for n, _ in enumerate(batches)]
        assert taken[client] == wanted
