"""Run folders: names, lists, provenance."""

import json
import os

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.fake_runs import fake_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.cli import main
from fedobp_lib.data.datasets import load
from fedobp_lib.federation import make_partition
from fedobp_lib.paths import data_dir
from fedobp_lib.results.tables import accuracies
from fedobp_lib.runs.integrity import checksums, sealed
from fedobp_lib.runs.store import RunResult, find_run, list_runs, load_data, run_id

TINY = {"clients": 18, "participation": 0.17, "rounds": 4, "local_epochs": 1, "eval_every": 2}


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
    assert one.config.clients == TINY["clients"]
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


EMPTY, MISSING = "", None
HEADER = "round,stage,scope,average,accuracy,loss\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("history.csv", EMPTY),
        ("history.csv", MISSING),
        ("history.csv", 0.5),
        ("history.csv", 0.97),
        ("history.csv", HEADER),
        ("config.json", EMPTY),
        ("config.json", MISSING),
        ("config.json", "{}"),
        ("config.json", '{"config": {}}'),
        ("summary.json", EMPTY),
        ("summary.json", "{}"),
        ("summary.json", "[]"),
        ("summary.json", '{"final": {}, "provenance": {}, "personalized_parameters": 0}'),
        ("summary.json", 0.5),
    ],
)
def test_a_damaged_run_is_named_in_one_line(name, content, capsys):
    """A number keeps that share of the file."""
    result = run(tiny(seed=1))
    path = result.directory / name
    if content is MISSING:
        path.unlink()
    elif isinstance(content, str):
        path.write_text(content)
    else:
        path.write_bytes(path.read_bytes()[: int(content * path.stat().st_size)])

    with pytest.raises(UserError, match=rf"{name} is damaged") as caught:
        again = RunResult(result.directory)
        accuracies([again])
        assert again.summary
    assert "\n" not in str(caught.value)
    whole = run(tiny(seed=2))
    states = list_runs().set_index("run_id")["state"]
    assert states.to_dict() == {result.run_id: "damaged", whole.run_id: "done"}
    assert main(["runs", "list"]) == 0
    for command in (["runs", "verify"], ["runs", "show", result.run_id]):
        assert main(command) > 0
    asked = ["--method", "fedavg", "--clients", "5", "--rounds", "1"]
    assert main(["sweep", *asked, "--dry-run"]) == 0


@given(st.floats(0, 1))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_history_cut_off_anywhere_is_found(tmp_path, share):
    result = fake_run(tmp_path, [50.0, 60.25], tuned=70.0, method="fedavg", rounds=4)
    path = result.directory / "history.csv"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content)) - 1])
    with pytest.raises(UserError, match=r"history.csv is damaged"):
        RunResult(result.directory).accuracy()


def test_a_run_is_found_by_the_path_that_was_printed(monkeypatch):
    result = run(tiny())
    for name in (result.directory, f"{result.directory}/", f"runs/{result.run_id}/"):
        assert find_run(str(name)).run_id == result.run_id
    for name in ("**", "*", "[", "runs/**/"):
        with pytest.raises(UserError, match="no run"):
            find_run(name)


def own_images(folder, seed):
    """A data set `own` whose file has the same name and size for every seed."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8), np.arange(40) % 3
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "own.npz", images=images, labels=labels, is_train=np.ones(40, bool))
    # Some file systems count time in milliseconds; one file follows another faster.
    os.utime(folder / "own.npz", (seed, seed))
    return images[..., None]


def test_a_data_file_replaced_while_the_process_lives_is_read_again(tmp_path, monkeypatch):
    def now():
        data = load_data("own")
        return data.images, run_id(RunConfig(dataset="own").resolved(), data)

    first, (images, name) = own_images(data_dir(), 0), now()
    np.testing.assert_array_equal(images, first)
    assert load_data("own") is load_data("own")
    second, (images, other) = own_images(data_dir(), 1), now()
    np.testing.assert_array_equal(images, second)
    assert other != name
    third = own_images(tmp_path / "elsewhere", 2)
    monkeypatch.setenv("FEDOBP_DATA", str(tmp_path / "elsewhere"))
    np.testing.assert_array_equal(now()[0], third)


def test_a_run_of_a_later_version_is_named_also_with_fields_of_its_own():
    result = run(tiny(seed=3))
    path = result.directory / "config.json"
    content = json.loads(path.read_text())
    content["config"]["later_field"] = 1
    path.write_text(json.dumps(content | {"results_version": 99}))
    summary = json.loads((result.directory / "summary.json").read_text())
    summary["files"] = checksums(result.directory)
    del summary["checksum"]
    (result.directory / "summary.json").write_text(json.dumps(sealed(summary)))
    assert list_runs()["state"].to_list() == ["version 99"]


def test_a_file_in_place_of_the_folder_of_runs_is_told(tmp_path, capsys):
    (tmp_path / "runs").write_text("x")
    assert main(["runs", "list", "--runs-dir", str(tmp_path / "runs")]) == 2
    assert "is a file" in capsys.readouterr().err
