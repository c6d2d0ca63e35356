"""Grids of runs, and what is missing of them."""

import pytest

from fedobp_lib import grid, run_all
from fedobp_lib.errors import UserError
from fedobp_lib.runs.sweeps import missing


@pytest.fixture
def results(tmp_path):
    return run_all(grid("smoke", methods=["fedavg", "fedobp"], seeds=[0, 1], rounds=3))


def test_a_sweep_computes_only_what_is_missing(results, monkeypatch):
    configs = grid("smoke", methods=["fedavg", "fedobp"], seeds=[0, 1, 2], rounds=3)
    assert [(c.method, c.seed) for c in missing(configs)] == [("fedavg", 2), ("fedobp", 2)]
    assert missing(configs[:2]) == []
    assert [r.config.seed for r in results] == [0, 1, 0, 1]
    with pytest.raises(UserError, match="did you mean 'quick'"):
        grid("quik")


def test_a_grid_takes_lists_as_papermill_passes_them():
    plain = grid("smoke", ["digits"], [0.1, 0.5], ["fedobp"], [0, 1])
    assert grid("smoke", "digits", "[0.1, 0.5]", '["fedobp"]', "[0, 1]") == plain
    assert [c.seed for c in grid("smoke", methods="fedavg", seeds=0)] == [0]
    assert [c.seed for c in grid("smoke", methods="fedavg", seeds=range(2))] == [0, 1]
    with pytest.raises(UserError, match="not a list"):
        grid("smoke", "[digits")
