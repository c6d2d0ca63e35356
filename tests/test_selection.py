"""Rules of selection against slow versions, one client and one parameter at a time."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedobp_lib.decoupling import merge, soft_merge, soft_weights
from fedobp_lib.selection import RULES, SHARES, Given

# Few distinct values, so that ties are common, or many; down to one row of one parameter.
shapes = st.tuples(st.integers(1, 3), st.integers(1, 40))
tied = arrays.arrays(np.float32, shapes, elements=st.integers(0, 4).map(float))
spread = arrays.arrays(np.float32, shapes, elements=st.floats(0, 100, width=32))
constant = st.tuples(shapes, st.floats(0, 9, width=32)).map(lambda x: np.full(*x, np.float32))
scores = tied | spread | constant


def select(rule, rows, losses=None, **given):
    chosen = {"q": 0.5, "quantile_rule": "linear", "count": 0, "groups": [slice(0, rows.shape[1])]}
    return RULES[rule](torch.from_numpy(rows), Given(**chosen | given, losses=losses))


def slow_knee(row):
    ordered = sorted(map(float, row))
    low, high = ordered[0], ordered[-1]
    farthest, knee = -1.0, None
    for rank, score in enumerate(ordered):
        across = rank / (len(ordered) - 1) if len(ordered) > 1 else 0.0
        up = (score - low) / (high - low) if high > low else 0.0
        if abs(across - up) > farthest:
            farthest, knee = abs(across - up), score
    return [score > knee for score in row]


@given(scores)
def test_knee(rows):
    chosen = select("knee", rows)
    assert chosen.mask.tolist() == [slow_knee(row) for row in rows]
    assert torch.equal(chosen.mask, torch.from_numpy(rows) > chosen.tau)


def test_the_knee_of_a_sharp_bend_is_where_it_bends():
    """Nine hundred small scores and a hundred that stand out, in any order."""
    rng = np.random.default_rng(0)
    row = np.concatenate([rng.uniform(0, 0.01, 900), rng.uniform(5, 6, 100)]).astype(np.float32)
    row = rng.permutation(row)
    assert torch.equal(select("knee", row[None]).mask[0], torch.from_numpy(row > 1))


@given(scores, st.integers(-20, 20))
def test_the_knee_does_not_change_with_the_scale_of_the_scores(rows, power):
    scaled = rows * np.float32(2.0**power)
    if (scaled / np.float32(2.0**power) == rows).all():  # else some are too small for float32
        assert torch.equal(select("knee", rows).mask, select("knee", scaled).mask)


@given(scores, st.integers(0, 45))
def test_count_takes_exactly_so_many_and_of_equal_scores_the_first(rows, count):
    chosen = select("count", rows, count=count)
    for mask, row in zip(chosen.mask.numpy(), rows, strict=True):
        best = sorted(range(len(row)), key=lambda k: (-row[k], k))[:count]
        assert np.flatnonzero(mask).tolist() == sorted(best)
    above = torch.from_numpy(rows) > chosen.tau
    assert not (above & ~chosen.mask).any()  # what is left out never exceeds the threshold


@given(scores, st.floats(0, 1), st.data())
def test_layers_have_a_quantile_each(rows, q, data):
    width = rows.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(1, width), max_size=3)) | {0, width})
    groups = [slice(low, high) for low, high in pairwise(cuts)]
    mask = select("layers", rows, q=q, groups=groups, quantile_rule="inverted_cdf").mask.numpy()
    for kept, row in zip(mask, rows, strict=True):
        for group in groups:
            tau = np.quantile(row[group], q, method="inverted_cdf")
            assert kept[group].tolist() == (row[group] > tau).tolist()


@given(scores, st.data())
def test_held_out_takes_the_first_of_the_smallest_losses(rows, data):
    """Losses that are drawn, some of them equal, infinite or no number at all."""
    worth = st.sampled_from([0.0, 1.0, 2.0, np.inf, np.nan])
    losses = np.array([[data.draw(worth) for _ in rows] for _ in SHARES])
    tried = []

    def losses_of(selection):
        tried.append(selection.mask.clone())
        return torch.from_numpy(losses[len(tried) - 1])

    chosen = select("held_out", rows, losses_of).mask
    assert not tried[0].any() and tried[-1].all() and len(tried) == len(SHARES)
    for share, masks in zip(SHARES[1:-1], tried[1:-1], strict=True):
        tau = np.quantile(rows, 1 - share, axis=1, method="linear", keepdims=True)
        differ = masks.numpy() != (rows > tau)
        assert not (differ & ~np.isclose(rows, tau, rtol=1e-5)).any()
    for k, mask in enumerate(chosen):
        of_client = [value if value == value else np.inf for value in losses[:, k]]
        assert torch.equal(mask, tried[of_client.index(min(of_client))][k])


def test_shares_grow_from_nothing_to_everything():
    assert SHARES[0] == 0 and SHARES[-1] == 1 and list(SHARES) == sorted(set(SHARES))


taus = st.sampled_from([0.0, 1.0, 3.0, np.inf, -np.inf]) | st.floats(0, 100, width=32)


@given(scores, taus)
def test_a_soft_merge_is_the_formula_and_lies_between(rows, tau):
    rng = np.random.default_rng(rows.size)
    local, server = rng.normal(size=(2, *rows.shape)).astype(np.float32)
    weights = soft_weights(torch.from_numpy(rows), torch.tensor([[tau]], dtype=torch.float32))
    ours = soft_merge(weights, torch.from_numpy(local), torch.from_numpy(server[0])).numpy()
    bound = max(tau, 0.0)
    for k, row in enumerate(rows):
        for j, score in enumerate(row):
            m = 0.0 if score + bound == 0 or bound == np.inf else score / (score + bound)
            expected = m * local[k, j] + (1 - m) * server[0, j]
            assert ours[k, j] == pytest.approx(expected, rel=1e-4, abs=1e-5)
            low, high = sorted((local[k, j], server[0, j]))
            assert low - 1e-6 <= ours[k, j] <= high + 1e-6


@given(scores)
def test_a_soft_merge_at_threshold_zero_is_hard(rows):
    """A score above it is the client's to the last bit, and a score of 0 the server's."""
    tensor = torch.from_numpy(rows)
    local, server = torch.randn(2, *rows.shape, generator=torch.Generator().manual_seed(0))
    softly = soft_merge(soft_weights(tensor, torch.zeros(1, 1)), local, server[0])
    assert torch.equal(softly, merge(tensor > 0, local, server[0]))


def test_a_soft_merge_takes_buffers_from_the_server():
    merged = soft_merge(torch.full((2, 3), 0.25), torch.ones(2, 5), torch.zeros(5))
    assert merged.tolist() == [[0.25, 0.25, 0.25, 0, 0]] * 2
