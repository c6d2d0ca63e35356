"""Runs on disk: determinism, interruption, faults."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fedobp_lib import RunConfig, UserError, run, runs
from fedobp_lib.datasets import load
from fedobp_lib.paths import runs_dir
from fedobp_lib.simulation import Simulation, make_partition

TINY = {"clients": 6, "participation": 0.5, "rounds": 4, "local_epochs": 1, "eval_every": 2}


def tiny(**changes) -> RunConfig:
    return RunConfig(**(TINY | changes))


def numbers(result) -> bytes:
    return b"".join((result.directory / f"{n}.csv").read_bytes() for n in ("history", "layers"))


def test_the_same_configuration_gives_the_same_history_byte_for_byte(tmp_path):
    torch.manual_seed(1)
    first = run(tiny(), directory=tmp_path / "a")
    torch.manual_seed(2)
    again = run(tiny(), directory=tmp_path / "b")
    other = run(tiny(seed=1), directory=tmp_path / "a")
    assert first.run_id == again.run_id != other.run_id
    assert numbers(first) == numbers(again) != numbers(other)


def test_the_number_of_threads_changes_nothing(tmp_path):
    two = run(tiny(), directory=tmp_path / "two")
    try:
        torch.set_num_threads(1)
        one = run(tiny(), directory=tmp_path / "one")
    finally:
        torch.set_num_threads(2)
    assert numbers(one) == numbers(two)


def test_fedobp_learns_what_trivial_answers_do_not_know():
    """Well above each client's majority class and above the class most frequent overall."""
    config = RunConfig(clients=20, participation=0.2, rounds=15)
    ours = run(config)
    trivial = run(RunConfig(method="majority-class", clients=20, participation=0.2, rounds=1))
    most_frequent = 100 * np.bincount(load("digits").labels).max() / 1797
    assert trivial.accuracy() > 2 * most_frequent
    for stage in ("before", "after"):
        assert ours.accuracy(stage) > trivial.accuracy(stage) + 20
    assert ours.accuracy() > 80


def test_history_says_stage_scope_and_average_of_every_accuracy():
    result = run(tiny())
    history = result.history
    keys = ["round", "stage", "scope", "average"]
    assert list(history) == [*keys, "accuracy", "loss"]
    assert not history.duplicated(keys).any()
    cohort = history[history["scope"] == "cohort"]
    assert len(cohort) == 4 * 2 * 2
    everyone = history[history["scope"] == "all"]
    assert sorted(everyone.query("stage == 'before'")["round"].unique()) == [2, 4]
    assert everyone.query("stage == 'after'")["round"].unique().tolist() == [4]
    final = result.summary["final"]
    assert final["after"]["pooled"] == result.accuracy("after")
    assert result.accuracy(which="best") >= result.accuracy(which="last")
    clients = result.clients
    weighted = (clients["accuracy_before"] * clients["test_samples"]).sum()
    assert weighted / clients["test_samples"].sum() == pytest.approx(result.accuracy())
    assert clients["accuracy_after"].mean() == pytest.approx(
        result.accuracy("after", average="client_mean")
    )


def test_layers_count_what_the_clients_of_the_last_round_keep():
    config = tiny(settings={"quantile": 0.999})
    result = run(config)
    last = result.layers[result.layers["round"] == 4]
    assert last["personalized"].sum() == result.summary["personalized_parameters"]
    assert last["parameters"].sum() == result.summary["parameters"] == 582_026
    assert result.summary["personalized_parameters"] == pytest.approx(583, abs=2)


def test_eval_after_always_and_never():
    always = run(tiny(eval_after="always")).history
    never = run(tiny(eval_after="never")).history
    rounds = always.query("scope == 'all' and stage == 'after'")["round"]
    assert sorted(rounds.unique()) == [2, 4]
    assert never.query("scope == 'all' and stage == 'after'").empty
    shared = always[(always["scope"] == "cohort") | (always["stage"] == "before")]
    pd.testing.assert_frame_equal(
        shared.reset_index(drop=True),
        never.reset_index(drop=True),
    )


def test_a_finished_run_is_never_computed_again(monkeypatch):
    first = run(tiny())
    monkeypatch.setattr(Simulation, "step", lambda self: pytest.fail("computed again"))
    assert run(tiny()).history.equals(first.history)
    with pytest.raises(pytest.fail.Exception):
        run(tiny(lr=0.02))


@pytest.mark.parametrize("method", ["fedobp", "fedper"])
def test_continued_at_any_round_gives_the_same_bytes(tmp_path, method):
    whole = run(tiny(method=method), directory=tmp_path / "whole")

    class Killed(BaseException):
        pass

    for last in (1, 2, 3):

        def stop(simulation, last=last):
            if simulation.round == last + 1:
                raise Killed

        home = tmp_path / f"killed-{last}"
        with pytest.raises(Killed):
            run(tiny(method=method), directory=home, on_round=stop, checkpoint_seconds=0)
        seen = []
        resumed = run(
            tiny(method=method), directory=home, on_round=lambda s, seen=seen: seen.append(s.round)
        )
        assert seen[0] == last  # went on, did not start over
        assert numbers(resumed) == numbers(whole)
        assert not (resumed.directory / "checkpoint.pt").exists()


def test_kill_minus_nine_and_the_same_command(tmp_path):
    """A real process, killed for real, again and again."""
    code = (
        "import torch; torch.set_num_threads(2)\n"
        "from fedobp_lib import RunConfig, run\n"
        f"run(RunConfig(**{TINY | {'rounds': 12}!r}), checkpoint_seconds=0)\n"
    )
    command = [sys.executable, "-c", code]
    kills = 0
    for delay in (0.0, 0.6, 0.2):
        process = subprocess.Popen(command)
        while not list(runs_dir().glob("*/config.json")) and process.poll() is None:
            time.sleep(0.02)
        time.sleep(delay)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    (folder,) = runs_dir().iterdir()
    whole = run(tiny(rounds=12), directory=tmp_path / "whole")
    assert kills >= 1 and folder.name == whole.run_id
    assert numbers(runs.RunResult(folder)) == numbers(whole)
    assert sorted(p.name for p in folder.iterdir() if p.name[0] != ".") == [
        "clients.csv", "config.json", "history.csv", "layers.csv", "summary.json",
    ]  # fmt: skip


def test_a_broken_checkpoint_costs_a_warning(tmp_path, capsys):
    whole = run(tiny(), directory=tmp_path / "whole")
    folder = tmp_path / "other" / whole.run_id
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"half a checkp")
    assert numbers(run(tiny(), directory=tmp_path / "other")) == numbers(whole)
    assert "starting over" in capsys.readouterr().err


def test_a_full_disk_during_a_checkpoint_costs_a_warning(monkeypatch, capsys, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    result = run(tiny(), checkpoint_seconds=0)
    assert "No space left on device" in capsys.readouterr().err
    assert not [p for p in result.directory.iterdir() if "checkpoint" in p.name]


def test_a_run_that_cannot_be_written_says_so_and_keeps_its_checkpoint(monkeypatch):
    def full(path, fill, real=runs._write):
        if path.name == "history.csv":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, fill)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_write", full)
        with pytest.raises(UserError, match=r"cannot write the run folder.*No space left"):
            run(tiny(), checkpoint_seconds=0)
    seen = []
    run(tiny(), on_round=lambda s: seen.append(s.round))
    assert seen[0] == 3


def test_two_processes_with_the_same_run_compute_it_once(tmp_path):
    code = (
        "from fedobp_lib import RunConfig, run\n"
        f"print(run(RunConfig(**{TINY!r})).summary['provenance']['finished'])\n"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    finished = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert finished[0] == finished[1]


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


def test_protocols_differ_as_documented():
    released, text = (RunConfig(protocol=p).resolved() for p in ("released", "text"))
    assert (released.momentum, released.test_share, released.pixels) == (0.7, 0.25, "benchmark")
    assert (text.momentum, text.test_share, text.pixels) == (0.0, 0.5, "data")
    simulation = Simulation(tiny(protocol="text"), load("digits"))
    assert simulation.method.rule == "inverted_cdf"
    sizes = simulation.clients_frame()
    assert abs(sizes["train_samples"].sum() - sizes["test_samples"].sum()) <= 6


def test_quantile_defaults_to_table_5():
    images = load("digits")
    for dataset, alpha, expected in [("mnist", 0.1, 0.9998), ("digits", 0.1, 0.9995)]:
        config = tiny(dataset=dataset, alpha=alpha)
        assert Simulation(config, images).method.quantile == expected


def test_provenance_names_code_versions_and_machine():
    made = run(tiny()).summary["provenance"]
    assert made["torch"] == torch.__version__ and made["device"] and made["threads"] >= 1
    in_git = Path(runs.__file__).parent.parent.joinpath(".git").exists()
    assert (made["commit"] is not None) == in_git


def test_list_and_find():
    result = run(tiny())
    table = runs.list_runs()
    assert table["run_id"].tolist() == [result.run_id]
    assert table["before"][0] == pytest.approx(result.accuracy())
    assert runs.find_run(result.run_id[:6]).run_id == result.run_id
    with pytest.raises(UserError, match="no run"):
        runs.find_run("zzz")
    os.remove(result.directory / "summary.json")
    assert runs.list_runs()["state"].tolist() == ["partial"]
    with pytest.raises(UserError, match="not finished"):
        runs.find_run(result.run_id)


def test_plot_draws_the_run():
    figure = run(tiny()).plot()
    assert figure.axes[0].get_title(loc="left").startswith("fedobp on digits")
