"""Runs in bf16 beside the same runs in fp32: only what differs in nothing else is compared."""

from __future__ import annotations

import pytest
from helpers.fake_runs import fake_run

from fedobp_lib.results.precisions import beside_fp32

SAME = {"dataset": "mnist", "method": "fedobp", "seed": 3}


def test_only_the_precision_may_differ(tmp_path):
    short = fake_run(tmp_path, [90.0, 92.0], rounds=50, eval_every=25, **SAME)
    long = fake_run(
        tmp_path, [91.0, 91.5, 93.0, 95.0], rounds=100, eval_every=25, precision="bf16", **SAME
    )
    table = beside_fp32([long, short])
    before = table[table["stage"] == "before"].set_index("round")
    assert before["difference"].to_dict() == {25: pytest.approx(1.0), 50: pytest.approx(-0.5)}
    assert set(table["precision"]) == {"bf16"} and set(table["seed"]) == {3}


@pytest.mark.parametrize(
    "other",
    [{"seed": 4}, {"alpha": 0.5}, {"momentum": 0.0}, {"settings": {"quantile": 0.5}}],
    ids=lambda other: next(iter(other)),
)
def test_what_differs_in_more_is_no_pair(tmp_path, other):
    run = fake_run(tmp_path, 90.0, precision="bf16", **SAME)
    twin = fake_run(tmp_path, 91.0, **SAME)
    assert len(beside_fp32([run, twin])) > 0
    assert beside_fp32([run, fake_run(tmp_path, 91.0, **SAME | other)]).empty
    assert beside_fp32([run]).empty and beside_fp32([]).empty
