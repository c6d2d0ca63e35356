"""Grids of runs, and what is missing of them."""

from dataclasses import replace

import pytest

from fedobp_lib import grid, run_all
from fedobp_lib.errors import UserError
from fedobp_lib.results.departures import setting_of
from fedobp_lib.runs.experiments import EXPERIMENTS, accuracy_runs
from fedobp_lib.runs.presets import PRESETS
from fedobp_lib.runs.sweeps import finished, missing


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


def test_the_preset_logged_is_what_the_authors_ran():
    configs = grid("logged", ["cifar100"], [0.1], ["fedobp", "flute", "fedavg"], rounds=100)
    ours, flute, fedavg = (config.resolved() for config in configs)
    assert ours.settings["quantile"] == 0.99505 and ours.settings["ema"] == 0.5
    assert ours.settings["score"] == "saliency" and ours.settings["normalization"] == "global"
    assert flute.settings["benchmark"] is True
    assert {c.momentum for c in (ours, flute, fedavg)} == {0.7} and ours.rounds == 100


def test_the_preset_printed_is_the_mix():
    configs = [c.resolved() for c in grid("printed", ["mnist"], [0.5], ["fedavg"])]
    assert [config.momentum for config in configs] == [0.0, 0.0, 0.0, 0.7]
    assert len({config.seed for config in configs}) == 4 and {c.rounds for c in configs} == {400}


def test_a_table_does_not_take_runs_of_the_precision_auto(monkeypatch):
    monkeypatch.setattr("fedobp_lib.training.precision.bf16_is_native", lambda: True)
    [config] = grid("smoke", methods=["fedavg"], rounds=1)
    [result] = run_all([replace(config, precision="auto")], "cpu", progress=False)
    assert result.config.precision == "bf16"
    assert finished([config]) == []
    told = setting_of([result], accuracy_runs)
    assert "precision bf16" in told


def test_every_experiment_knows_every_preset():
    for experiment in EXPERIMENTS:
        for preset in PRESETS if experiment.runs else ():
            assert experiment.runs(preset)
