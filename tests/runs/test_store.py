"""Run folders: names, lists, provenance."""

import json
import os

import pytest
import torch
from helpers import ROOT

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.data.datasets import load
from fedobp_lib.federation import make_partition
from fedobp_lib.runs.store import RunResult, find_run, list_runs

TINY = {"clients": 6, "participation": 0.5, "rounds": 4, "local_epochs": 1, "eval_every": 2}


def tiny(**changes) -> RunConfig:
    return RunConfig(**(TINY | changes))


def test_a_partition_file_names_the_run_by_its_content(tmp_path):
    data = load("digits")
    split = make_partition(tiny(alpha=0.5).resolved(), data)
    for name in ("one", "two"):
        split.save(tmp_path / f"{name}.npz")
    one, two = (
        run(RunConfig(rounds=1, local_epochs=1, partition=str(tmp_path / f"{n}.npz")))
        for n in ("one", "two")
    )
    assert one.run_id == two.run_id
    assert one.config.clients == 6
    written = json.loads((one.directory / "config.json").read_text())
    assert written["partition"] == split.fingerprint


def test_provenance_names_code_versions_and_machine():
    made = run(tiny()).summary["provenance"]
    assert made["torch"] == torch.__version__ and made["device"] and made["threads"] >= 1
    in_git = (ROOT / ".git").exists()
    assert (made["commit"] is not None) == in_git


def test_list_and_find():
    result = run(tiny())
    table = list_runs()
    assert table["run_id"].tolist() == [result.run_id]
    assert table["before"][0] == pytest.approx(result.accuracy())
    assert find_run(result.run_id[:6]).run_id == result.run_id
    with pytest.raises(UserError, match="no run"):
        find_run("zzz")
    os.remove(result.directory / "summary.json")
    assert list_runs()["state"].tolist() == ["partial"]
    with pytest.raises(UserError, match="not finished"):
        find_run(result.run_id)


def test_a_run_from_before_a_setting_came_is_read_with_its_default():
    result = run(tiny())
    path = result.directory / "config.json"
    known = json.loads(path.read_text())
    assert known["config"]["settings"].pop("ema") == 0.0
    path.write_text(json.dumps(known))
    again = RunResult(result.directory).config
    assert again.settings == result.config.settings and again.settings["ema"] == 0.0
    assert run(tiny()).run_id == result.run_id
