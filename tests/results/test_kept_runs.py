"""What the repository keeps of runs says the same as the runs."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from helpers import ROOT
from helpers.fake_runs import fake_run

from fedobp_lib import UserError, grid, run_all
from fedobp_lib.data.datasets import load
from fedobp_lib.results import kept_runs
from fedobp_lib.results.kept_runs import keep, kept_results, made_by, not_kept
from fedobp_lib.results.tables import accuracy_table
from fedobp_lib.runs.round100 import parts


@pytest.fixture
def results():
    return run_all(grid("smoke", methods=["fedavg", "fedobp"], rounds=2), "cpu", progress=False)


def test_kept_runs_have_the_configurations_and_tables_of_the_runs(results, tmp_path):
    keep(results, tmp_path)
    kept = kept_results(tmp_path)
    assert [run.run_id for run in kept] == [run.run_id for run in results]
    assert [run.config for run in kept] == [run.config for run in results]
    for ours, theirs in zip(kept, results, strict=True):
        pooled = "scope == 'cohort' and average == 'pooled'"
        for rows in ("scope == 'all'", pooled):
            one, other = (run.history.query(rows).drop(columns="loss") for run in (ours, theirs))
            pd.testing.assert_frame_equal(
                one.reset_index(drop=True), other.reset_index(drop=True), atol=1e-4, rtol=0
            )
        assert ours.summary["provenance"].items() <= theirs.summary["provenance"].items()
        assert ours.clients["test_samples"].sum() == theirs.clients["test_samples"].sum()
    one, other = accuracy_table(kept), accuracy_table(results)
    pd.testing.assert_frame_equal(one, other, atol=1e-4, rtol=0)


def test_what_made_them_is_told_in_a_sentence(results, tmp_path):
    keep(results, tmp_path)
    told = made_by(kept_results(tmp_path))
    made = results[0].summary["provenance"]
    assert told == made_by(results)
    assert told.startswith("2 runs of 2 rounds on digits, seed 0; fp32 on ")
    assert made["device"] in told and f"torch {made['torch']}; code {made['commit'][:7]}" in told
    assert made_by([]) == "No runs."


def test_runs_of_other_sizes_are_counted_by_themselves(tmp_path):
    """Two data sets and two lengths: nobody can take one's rounds for the other's."""
    made = {"device": "a CPU", "torch": "2", "commit": "0123456789"}
    sizes = [("cifar100", 400), ("mnist", 100), ("mnist", 100), ("mnist", 50)]
    told = made_by(
        fake_run(
            tmp_path, 50.0, dataset=dataset, rounds=rounds, seed=seed,
            summary={"provenance": made},
        )
        for seed, (dataset, rounds) in enumerate(sizes)
    )  # fmt: skip
    assert told.startswith(
        "1 run of 400 rounds on cifar100, 2 of 100 on mnist, 1 of 50 on mnist, seeds 0, 1, 2, 3; "
    )


def test_what_is_kept_already_stays_byte_for_byte_and_is_not_computed_again(results, tmp_path):
    first, second = results
    both = grid("smoke", methods=["fedavg", "fedobp"], rounds=2)
    keep([first], tmp_path / "parts")
    assert not_kept(both, tmp_path / "parts") == both[1:]
    keep([second], tmp_path / "parts")
    keep([first], tmp_path / "parts")  # again: it moves to the end
    keep([], tmp_path / "parts")
    assert not_kept(both, tmp_path / "parts") == []
    keep([second, first], tmp_path / "whole")
    for name in ("history.csv", "runs.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_fields_that_came_later_have_their_defaults_in_older_runs(results, tmp_path):
    first, second = results
    keep([first], tmp_path / "old")
    runs = tmp_path / "old" / "runs.csv"
    pd.read_csv(runs, dtype=str, na_filter=False).drop(columns="eval_cohort").to_csv(
        runs, index=False
    )
    keep([second], tmp_path / "old")
    keep(results, tmp_path / "new")
    assert runs.read_bytes() == (tmp_path / "new" / "runs.csv").read_bytes()


def test_a_run_of_another_seed_or_on_changed_data_is_not_kept(results, tmp_path, monkeypatch):
    keep(results, tmp_path)
    other = grid("smoke", methods=["fedavg"], rounds=2, seeds=[1])
    assert not_kept(other, tmp_path) == other
    same, digits = grid("smoke", methods=["fedavg"], rounds=2), load("digits")
    assert not_kept(same, tmp_path) == []
    changed = replace(digits, fingerprint="0" * 12)
    monkeypatch.setattr(kept_runs, "load_data", lambda name: changed)
    assert not_kept(same, tmp_path) == same


def test_only_settings_that_differ_from_the_defaults_are_told(results, tmp_path):
    ours = grid("smoke", methods=["fedobp"], rounds=2)[0]
    settings = {"ema": 0.5, "score": "saliency"}
    [other] = run_all([ours.__class__(**vars(ours) | {"settings": settings})], "cpu", False)
    keep([*results, other], tmp_path)
    told = pd.read_csv(tmp_path / "history.csv", keep_default_na=False)
    assert set(told["settings"]) == {"", "ema=0.5 score=saliency"}


def test_a_cut_file_is_one_clear_line(results, tmp_path):
    keep(results, tmp_path)
    path = tmp_path / "runs.csv"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"runs\.csv"):
        kept_results(tmp_path)


def test_the_own_runs_are_the_logged_ones_at_their_first_evaluation():
    every = [config.resolved("cpu") for runs in parts().values() for config in runs]
    assert {config.precision for config in every} == {"bf16"}
    assert {config.eval_every for config in every} == {25}
    assert {config.rounds for config in every} == {100, 400}
    assert {config.dataset for config in every if config.rounds == 400} == {"cifar100"}


@pytest.mark.parametrize("script", ["round100.py", "rules.py"])
def test_the_scripts_keep_what_is_finished_and_nothing_else(script, tmp_path):
    own = {name: str(tmp_path / name) for name in ("FEDOBP_RUNS", "FEDOBP_DATA", "FEDOBP_FIGURES")}
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, "--finished"],
        env=os.environ | own | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.rglob("*.csv"))
