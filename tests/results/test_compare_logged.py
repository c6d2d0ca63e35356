"""Our runs beside the logged ones: the right counterpart, and the rule."""

import numpy as np
import pandas as pd
import pytest
from helpers.fake_runs import fake_run

from fedobp_lib.cli import main
from fedobp_lib.results.compare_logged import RULE_LOGGED, compare_logged, logged_text, margin


def one(folder, accuracy, **config):
    made = fake_run(folder, accuracy, tuned=99.0, dataset="mnist", rounds=100, **config)
    pd.DataFrame({"test_samples": [17500]}).to_csv(made.directory / "clients.csv", index=False)
    return made


def logged_value():
    from fedobp_lib.paper.logged import logged_accuracy

    frame = logged_accuracy().query(
        "dataset == 'mnist' and alpha == 0.1 and method == 'fedavg' and momentum == 0.7"
    )
    rows = frame[(frame["round"] == 100) & (frame["stage"] == "before")]
    return rows.sort_values("run")["accuracy"].iloc[-1]


def test_the_counterpart_has_the_same_round_momentum_and_stage(tmp_path):
    theirs = logged_value()
    near, far = theirs + 1.5, theirs - 4
    table = compare_logged([one(tmp_path, near, method="fedavg")]).set_index("stage")
    assert table.loc["before", "logged"] == theirs
    assert table.loc["before", "difference"] == pytest.approx(1.5)
    assert table.loc["before", "verdict"] == "agrees"
    assert table.loc["after", "mean"] == 99.0
    away = compare_logged([one(tmp_path, far, method="fedavg")]).set_index("stage")
    assert away.loc["before", "verdict"] == "differs"
    # Another momentum is another number; one that was not logged has none.
    still = compare_logged([one(tmp_path, near, method="fedavg", momentum=0.0)])
    assert still.query("stage == 'before'")["logged"].iloc[0] != theirs
    other = compare_logged([one(tmp_path, near, method="fedavg", momentum=0.3)])
    assert set(other["verdict"]) == {"not logged"}


def test_seeds_are_averaged_and_their_deviation_decides(tmp_path):
    theirs = logged_value()
    runs = [one(tmp_path, theirs + d, method="fedavg", seed=s) for s, d in enumerate((0.9, 1.1))]
    row = compare_logged(runs).query("stage == 'before'").iloc[0]
    assert row["seeds"] == 2 and row["mean"] == pytest.approx(theirs + 1)
    assert row["verdict"] == "differs"  # two seeds that agree so well leave no room for a point


def test_the_margin_covers_what_chance_does():
    rng = np.random.default_rng(0)
    n, p, spread, seeds = 4000, 0.9, 0.8, 3
    for_all = []
    for _ in range(4000):
        runs = p + rng.normal(0, spread / 100, seeds + 1)
        tested = 100 * rng.binomial(n, runs) / n
        for_all.append(abs(tested[0] - tested[1:].mean()) <= margin(90, n, spread, seeds))
    assert 0.93 < np.mean(for_all) < 0.97


def test_the_text_fits_and_states_the_rule(tmp_path):
    text = logged_text(compare_logged([one(tmp_path, 97.0, method="lg-fedavg")]))
    assert max(map(len, text.splitlines())) < 80
    assert " ".join(text.split()).endswith(RULE_LOGGED)
    assert logged_text(compare_logged([])).startswith("no finished run has a logged counterpart")


def test_the_command(capsys):
    assert main(["compare", "--with", "logged", "--preset", "smoke"]) == 0
    assert "no finished run" in capsys.readouterr().out
    assert main(["compare", "--with", "logged", "--table", "1"]) == 2
    assert "run by run" in capsys.readouterr().err
