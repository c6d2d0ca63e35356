"""The rounds: what a run in memory records, and that nothing else decides it."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from fedobp_lib import RunConfig, run
from fedobp_lib.data.datasets import load
from fedobp_lib.simulation import simulate

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
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = run(tiny(), directory=tmp_path / "two")
        torch.set_num_threads(1)
        one = run(tiny(), directory=tmp_path / "one")
    finally:
        torch.set_num_threads(before)
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


def test_a_cohort_is_tested_every_so_many_rounds_and_in_the_last():
    every, third = run(tiny()), run(tiny(eval_cohort=3))
    assert third.run_id != every.run_id
    wanted = every.history.query("scope == 'all' or round in (3, 4)").reset_index(drop=True)
    pd.testing.assert_frame_equal(third.history, wanted)
    pd.testing.assert_frame_equal(third.layers, every.layers)


def test_it_goes_on_from_rounds_of_which_nothing_was_tested():
    config, data = tiny(eval_cohort=3, eval_every=4), load("digits")
    whole = simulate(config, data)
    whole.run(progress=False)
    first = simulate(config, data)
    for _ in range(3):
        first.step()
        state = copy.deepcopy(first.state())
        second = simulate(config, data)
        second.load_state(copy.deepcopy(state))
        second.run(progress=False)
        assert second.history_frame().equals(whole.history_frame())
    state["history"].clear()  # round 3 was tested
    with pytest.raises(ValueError, match="a part of its history"):
        simulate(config, data).load_state(state)


def test_times_are_of_rounds_tests_and_fine_tuning(monkeypatch):
    """On a clock that only training and tests move, by what they take."""
    clock = [0.0]
    config = RunConfig(method="fedavg", clients=4, participation=0.5, rounds=3, eval_every=1)
    simulation = simulate(config, load("digits"))
    fit, test = simulation.trainer.backend.fit, simulation.trainer.backend.test

    def timed_fit(jobs):
        clock[0] += sum(100 * len(job.clients) for job in jobs)
        return fit([replace(job, settings=replace(job.settings, epochs=1)) for job in jobs])

    def timed_test(questions):
        clock[0] += sum(len(question.rows) for question in questions)
        return test(questions)

    monkeypatch.setattr(simulation, "_clock", lambda: clock[0])
    monkeypatch.setattr(simulation.trainer.backend, "fit", timed_fit)
    monkeypatch.setattr(simulation.trainer.backend, "test", timed_test)
    simulation.run(progress=False)
    # Three cohorts of two; all four once a round, and once more after they were fine-tuned.
    assert simulation.seconds == {"rounds": 3 * 200, "tests": 3 * (2 * 2 + 4) + 4, "tuning": 400}
