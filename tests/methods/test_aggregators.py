"""Robust aggregators beside slow versions in NumPy, and what one liar can do to them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.literal import COHORTS, make, play, same, tiny_federation
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedobp_lib import RunConfig, UserError
from fedobp_lib.methods import METHODS, Aggregator, averages
from fedobp_lib.methods.aggregators import STEPS

ROBUST = ("median", "trimmed:0.2", "trimmed:0.4", "clipping:0.5", "clipping")


def slow(text, rows, center):
    """One column, or one row, after the other."""
    kind, _, value = text.partition(":")
    if kind == "median":
        return np.array([np.median(column) for column in rows.T])
    if kind == "trimmed":
        result = []
        for column in rows.T:
            left = sorted(column)
            wanted = -(-len(column) * round(float(value) * 10) // 10)  # rounded up
            for _ in range(wanted):
                if len(left) > 2:
                    left = left[1:-1]
            result.append(sum(left) / len(left))
        return np.array(result)
    lengths = [sum((row - center) ** 2) ** 0.5 for row in rows]
    radius = float(value) if value else np.median(lengths)
    place = center.copy()
    for _ in range(STEPS):
        total = np.zeros_like(place)
        for row in rows:
            length = sum((row - place) ** 2) ** 0.5
            total += (row - place) * (min(1, radius / length) if length else 1)
        place = place + total / len(rows)
    return place


NUMBERS = st.floats(-100, 100, width=32)


@given(st.sampled_from(ROBUST), st.data())
def test_they_are_their_slow_versions(text, data):
    shape = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    rows = data.draw(arrays(np.float32, shape, elements=NUMBERS))
    center = data.draw(arrays(np.float32, shape[1], elements=NUMBERS))
    ours = Aggregator.parse(text).combine(
        torch.from_numpy(rows), torch.from_numpy(center), torch.ones(len(rows))
    )
    theirs = slow(text, rows.astype(float), center.astype(float))
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("text", ["mean", *ROBUST])
@pytest.mark.parametrize("size", [1e6, 1e30])
def test_one_outlier_moves_the_mean_and_no_other(text, size):
    generator = torch.Generator().manual_seed(0)
    honest, center = torch.randn(6, 50, generator=generator), torch.zeros(50)
    liar = torch.full((1, 50), size)
    aggregator = Aggregator.parse(text)
    result = aggregator.combine(torch.cat([honest, liar]), center, None)
    apart = (result - honest.mean(0)).norm()
    # Robust ones stay among the honest rows, clipping at most its steps away from the center.
    bound = 2 * honest.norm(dim=1).max() * (STEPS if text == "clipping" else 1)
    assert (apart > size / 10) if text == "mean" else (apart < bound)
    assert result.isfinite().all()


@pytest.mark.parametrize(
    ("name", "text"),
    [("fedavg", "median"), ("fedper", "clipping:0.05"), ("ffgg", "clipping"),
     ("lg-fedavg", "clipping:0.05"), ("apfl", "trimmed:0.4"), ("fedobp", "median")],
)  # fmt: skip
def test_methods_use_them_on_what_travels(name, text):
    """After a round the server has what the slow version makes of the uploads, and else its own."""
    federation = replace(tiny_federation(), aggregator=Aggregator.parse(text))
    method = make(name, federation)
    uploads, upload = [], method.upload
    method.upload = lambda *rows: uploads.append(upload(*rows)) or uploads[-1]
    before = method.global_params.clone()
    play(method, COHORTS[:1])
    expected, there = before.clone(), method.travels
    rows = uploads[0].double().numpy()
    expected[there] = torch.from_numpy(slow(text, rows, before[there].double().numpy())).float()
    assert same(method.global_params, expected, 1e-5)
    assert not same(method.global_params, before, 1e-5)


def test_the_gradient_of_ffgg_is_clipped_around_zero():
    federation = replace(tiny_federation(), aggregator=Aggregator.parse("clipping:0.01"))
    method = make("ffgg", federation, variant="gradient", server_lr=0.5)
    before = method.global_params.clone()
    play(method, COHORTS[:1])
    moved = (method.global_params - before).norm()
    assert 0 < moved <= 0.5 * 0.01 * STEPS * 1.001


def test_clients_count_alike():
    """A weight that a client names itself protects nobody."""
    rows, center = torch.tensor([[0.0], [1.0], [2.0], [9.0]]), torch.zeros(1)
    for text in ROBUST:
        one, other = (
            Aggregator.parse(text).combine(rows, center, torch.tensor(weights))
            for weights in ([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1e6])
        )
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("text", "written"),
    [("mean", "mean"), ("median", "median"), ("trimmed", "trimmed:0.2"),
     ("trimmed:.25", "trimmed:0.25"), ("clipping", "clipping"), ("clipping:1", "clipping:1.0")],
)  # fmt: skip
def test_each_is_written_in_one_way(text, written):
    assert str(Aggregator.parse(text)) == written
    assert RunConfig(aggregator=text).resolved().aggregator == written
    assert Aggregator.parse(written) == Aggregator.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "meen", "mean:1", "median:0.1", "trimmed:", "trimmed:0.5", "trimmed:-0.1", "trimmed:nan",
     "trimmed:x", "clipping:0", "clipping:inf", "clipping:1:2", "Median"],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line(text):
    with pytest.raises(UserError) as told:
        RunConfig(aggregator=text).resolved()
    assert "\n" not in str(told.value)


def test_methods_that_average_no_models_refuse_them():
    without = {name for name, method in METHODS.items() if not averages(method)}
    assert without == {"fedselect", "fedspa", "floco", "local-only", "majority-class", "pfedfda"}
    for name in METHODS:
        config = RunConfig(method=name, aggregator="median")
        if name in without:
            with pytest.raises(UserError, match="no aggregator but the mean"):
                config.resolved()
        else:
            config.resolved()
