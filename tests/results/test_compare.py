"""Finished runs beside the published numbers: the right accuracy, every cell, one rule."""

import io

import numpy as np
import pandas as pd
import pytest
from helpers.fake_runs import fake_run
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from fedobp_lib import RunConfig, grid, run_all
from fedobp_lib.cli import main
from fedobp_lib.data import datasets
from fedobp_lib.data.partition import dirichlet_partition
from fedobp_lib.errors import UserError
from fedobp_lib.paper.published import (
    published_accuracy,
    published_normalizations,
    published_resnet18,
)
from fedobp_lib.results.compare import (
    MARGIN,
    RULE,
    VERDICTS,
    compare_accuracy,
    compare_normalizations,
    compare_resnet18,
    compare_tables,
    interval,
    verdict,
)
from fedobp_lib.results.comparison_text import comparison_text, counts, readable_comparison
from fedobp_lib.results.departures import AS_IN_THE_PAPER, setting_of
from fedobp_lib.runs import sweeps
from fedobp_lib.runs.experiments import accuracy_runs, resnet18_runs
from fedobp_lib.runs.normalizations import (
    ALL_NORMALIZATIONS,
    NORMALIZATIONS,
    normalization_settings,
)
from fedobp_lib.runs.sweeps import finished


def cell(frame, dataset, alpha, name, key="method"):
    found = frame[(frame["dataset"] == dataset) & (frame["alpha"] == alpha) & (frame[key] == name)]
    assert len(found) == 1
    return found.iloc[0]


def published(dataset, alpha, method):
    return cell(published_accuracy(), dataset, alpha, method)


def test_a_cell_is_the_mean_over_seeds_of_the_best_evaluated_round(tmp_path):
    best = [98.1, 99.3, 99.2, 99.5]
    results = [
        fake_run(tmp_path, [90.0, value, 80.0, 95.0], dataset="mnist", seed=seed)
        for seed, value in enumerate(best)
    ]
    row = cell(compare_accuracy(results), "mnist", 0.1, "fedobp")
    printed = published("mnist", 0.1, "fedobp")
    assert row["table"] == 6 and row["seeds"] == 4
    assert row["mean"] == pytest.approx(np.mean(best))
    assert row["std"] == pytest.approx(np.std(best, ddof=1))
    assert row["published_mean"] == printed["accuracy_mean_percent"]
    assert row["published_std"] == printed["accuracy_std_percent"]
    assert row["difference"] == pytest.approx(row["mean"] - row["published_mean"])
    assert row["low"] < row["mean"] < row["high"]
    assert row["setting"] == AS_IN_THE_PAPER


def test_published_cells_that_were_not_run_are_there_and_the_rows_of_our_own_too(tmp_path):
    results = [
        fake_run(tmp_path, 58.0, tuned=85.0, dataset="cifar10", method="fedavg"),
        fake_run(tmp_path, 70.0, dataset="cifar10", method="majority-class"),
        fake_run(tmp_path, 70.0, dataset="digits", method="fedavg"),
    ]
    frame = compare_accuracy(results)
    assert len(frame) == len(published_accuracy()) + 3
    assert (frame["verdict"] == "not run").sum() == len(published_accuracy()) - 1
    keys = ["dataset", "alpha", "method"]
    printed = published_accuracy().set_index(keys)
    ours = frame.set_index(keys)
    assert printed.index.isin(ours.index).all()
    assert (ours.loc[printed.index, "published_mean"] == printed["accuracy_mean_percent"]).all()
    for method, mean in (("majority-class", 70.0), ("fedavg-fine-tuned", 85.0)):
        row = cell(frame, "cifar10", 0.1, method)
        assert (row["mean"], row["verdict"], row["table"]) == (mean, "only ours", 1)
        assert np.isnan(row["published_mean"])
    # They stand beside the published rows of the same data set and alpha.
    place = frame.index[(frame["dataset"] == "cifar10") & (frame["alpha"] == 0.1)]
    assert (np.diff(place) == 1).all()
    assert pd.isna(cell(frame, "digits", 0.1, "fedavg")["table"])


def test_a_published_cell_that_is_perturbed_flips_the_verdict(tmp_path, monkeypatch):
    printed = published("mnist", 0.1, "fedper")
    mean = printed["accuracy_mean_percent"]
    results = [fake_run(tmp_path, mean, dataset="mnist", method="fedper")]
    before = compare_accuracy(results)
    assert cell(before, "mnist", 0.1, "fedper")["verdict"] == "agrees"
    other = published_accuracy()
    other.loc[printed.name, "accuracy_mean_percent"] = mean + 1.01
    monkeypatch.setattr("fedobp_lib.results.compare.published_accuracy", lambda: other)
    after = compare_accuracy(results)
    assert cell(after, "mnist", 0.1, "fedper")["verdict"] == "differs"
    changed = before["verdict"] != after["verdict"]
    assert changed.sum() == 1


hundredths = st.integers(0, 10_000).map(lambda n: n / 100)
small = st.integers(0, 300).map(lambda n: n / 100)


@given(hundredths, hundredths, small, small)
def test_the_rule_at_its_boundaries(mean, shown, below, above):
    """In whole hundredths: the last value inside agrees, the next one differs."""
    low, high = shown - below, shown + above
    top, bottom = round(100 * (high + MARGIN)), round(100 * (low - MARGIN))
    assert verdict(top / 100, shown, low, high) == "agrees"
    assert verdict((top + 1) / 100, shown, low, high) == "differs"
    assert verdict(bottom / 100, shown, low, high) == "agrees"
    assert verdict((bottom - 1) / 100, shown, low, high) == "differs"
    inside = bottom <= round(100 * mean) <= top
    assert verdict(mean, shown, low, high) == ("agrees" if inside else "differs")


def test_the_rule_without_an_interval_and_without_numbers():
    assert verdict(50.0, 51.0, np.nan, np.nan) == "agrees"
    assert verdict(50.0, 51.01, np.nan, np.nan) == "differs"
    # 68.4712 would be printed as 68.47.
    assert verdict(67.47, 68.4712, 68.4712, 68.4712) == "agrees"
    assert verdict(50.0, np.nan, np.nan, np.nan) == "not run"
    assert verdict(np.nan, 50.0, 49.0, 51.0) == "only ours"


def test_the_rule_says_how_much_the_interval_of_few_seeds_covers():
    rng = np.random.default_rng(5)

    def coverage(seeds):
        bounds = [interval(rng.normal(size=seeds)) for _ in range(400)]
        return np.mean([low <= 0 <= high for low, high in bounds])

    assert coverage(4) == pytest.approx(0.8, abs=0.06) and "covers about 80 %" in RULE
    assert coverage(2) == pytest.approx(0.5, abs=0.08) and "two: half" in RULE


def test_the_interval_is_that_of_scipy_and_does_not_depend_on_chance_or_order():
    values = np.random.default_rng(3).normal(80, 2, 12)
    low, high = interval(values)
    scipys = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000)
    assert (low, high) == pytest.approx(tuple(scipys.confidence_interval), abs=0.1)
    assert interval(values) == interval(values[::-1]) == (low, high)
    assert interval([5.0, 5.0]) == (5.0, 5.0)
    assert np.isnan(interval([5.0])).all() and np.isnan(interval([])).all()


def test_every_departure_from_the_papers_setting_is_told(tmp_path):
    def told(**config):
        return setting_of([fake_run(tmp_path, 50.0, **config)], accuracy_runs)

    assert told(dataset="mnist") == "1 seed"
    assert told(dataset="mnist", rounds=20) == "20 rounds, 1 seed"
    assert told(dataset="mnist", eval_every=10) == "tested every 10 rounds, 1 seed"
    # What the other protocol brings along is not told again; what departs from it is.
    assert told(dataset="mnist", protocol="text") == "protocol text, 1 seed"
    assert told(dataset="mnist", protocol="text", test_share=0.25) == (
        "protocol text, test share 0.25, 1 seed"
    )
    assert told(dataset="mnist", settings={"quantile": 0.9}) == "quantile 0.9, 1 seed"
    split = tmp_path / "own.npz"
    dirichlet_partition(np.arange(200) % 10, 5, 1.0, seed=0).save(split)
    assert told(dataset="mnist", partition=str(split)) == "a split from a file, 1 seed"
    assert told(dataset="digits", rounds=12).startswith("20 clients, 20% a round, 12 rounds")
    for name, value in (("clients", 50), ("local_epochs", 1), ("lr", 0.1), ("precision", "bf16"),
                        ("batch_size", 8), ("momentum", 0.0), ("min_samples", 20),
                        ("pixels", "data"), ("model", "resnet18")):  # fmt: skip
        assert str(value) in told(dataset="mnist", **{name: value})
    seeds = [fake_run(tmp_path, 50.0, dataset="mnist", seed=seed) for seed in range(4)]
    assert setting_of(seeds, accuracy_runs) == AS_IN_THE_PAPER
    assert setting_of([], accuracy_runs) == ""


def test_resnet18_in_the_papers_setting_is_that_of_table_7(tmp_path):
    runs_of = resnet18_runs("paper", datasets=["mnist"], methods=["fedobp"])
    results = [
        fake_run(
            tmp_path, 99.48, dataset="mnist", model="resnet18", pretrained=True, seed=run.seed,
            settings=dict(run.settings),
        )
        for run in runs_of
    ]  # fmt: skip
    row = cell(compare_resnet18(results), "mnist", 0.1, "fedobp")
    assert (row["setting"], row["verdict"], row["table"]) == (AS_IN_THE_PAPER, "agrees", 7)
    untrained = fake_run(tmp_path, 99.48, dataset="mnist", model="resnet18")
    assert "no ImageNet weights" in setting_of([untrained], resnet18_runs)
    assert len(compare_resnet18([])) == len(published_resnet18())


def test_normalizations_are_told_apart(tmp_path):
    values = dict(zip(NORMALIZATIONS, (99.0, 98.0, 97.0, 96.0), strict=True))
    settings = normalization_settings(RunConfig(dataset="mnist", alpha=0.1))
    results = [
        fake_run(tmp_path, values[name], dataset="mnist", settings=chosen)
        for name, chosen in zip(ALL_NORMALIZATIONS, settings, strict=True)
        if name in values
    ]
    frame = compare_normalizations(results)
    assert len(frame) == len(published_normalizations())
    for name, value in values.items():
        row = cell(frame, "mnist", 0.1, name, "normalization")
        assert row["mean"] == value and row["setting"] == "1 seed"
    assert cell(frame, "mnist", 0.1, "none", "normalization")["verdict"] == "agrees"
    assert cell(frame, "mnist", 0.1, "layer", "normalization")["verdict"] == "differs"


def test_a_comparison_for_people(tmp_path):
    results = [
        fake_run(tmp_path, 99.3 + seed / 50, dataset="mnist", seed=seed) for seed in range(2)
    ]
    frame = compare_accuracy(results)
    text = readable_comparison(frame)
    ran = text[(text["data set"] == "mnist") & (text["alpha"] == "0.1")]
    assert len(ran) == 13 and len(text) == 13 + 15  # a row for each cell, one for the rest
    row = ran.set_index("method").loc["FedOBP"]
    assert row["published"] == "99.34 (0.02)" and row["ours"] == "99.31 (0.01)"
    assert row["difference"] == "-0.03" and row["setting"] == "2 seeds"
    assert counts(frame) == "208 cells: 1 agrees, 207 not run; 0 in the paper's setting"
    printed = comparison_text(frame)
    assert max(map(len, printed.splitlines())) < 80
    assert " ".join(printed.split()).endswith(RULE)


@pytest.fixture
def smoke():
    return run_all(grid("smoke", methods=["fedavg", "majority-class"]), progress=False)


def test_the_command_compares_what_is_finished_and_computes_nothing(smoke, capsys, monkeypatch):
    monkeypatch.setattr(sweeps, "run", lambda *_, **__: pytest.fail("a run was started"))
    monkeypatch.setattr(datasets, "fetch", lambda *_, **__: pytest.fail("a download"))
    assert len(finished(grid("smoke"))) == 2
    assert main(["compare", "--preset", "smoke"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and max(map(len, out.splitlines())) < 80
    accuracy = smoke[0].accuracy(which="best")
    assert f"{accuracy:.2f}" in out and "FedAvg + fine-tuning" in out and "Majority class" in out
    assert all(f"Table {number}" in out for number in (1, 6, 7, 8))
    assert " ".join(out.split()).endswith(RULE)

    assert (
        main(["compare", "--preset", "paper", "--table", "1", "--datasets", "svhn", "--csv"]) == 0
    )
    frame = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert len(frame) == 26 and set(frame["dataset"]) == {"svhn"}
    assert set(frame["verdict"]) == {"not run"} <= set(VERDICTS)


def test_tables_and_cells_are_chosen(smoke):
    assert set(compare_tables("smoke", [1])["table"].dropna()) == {1}
    frame = compare_tables("smoke", [6, 7], alphas=[0.1], methods=["fedavg"])
    assert set(frame["table"].dropna()) == {6, 7} and set(frame["alpha"]) == {0.1}
    assert set(frame["method"]) == {"fedavg", "fedavg-fine-tuned"}
    with pytest.raises(UserError, match="table 3 has no accuracies"):
        compare_tables("smoke", [3])
    with pytest.raises(UserError, match="no such cell"):
        compare_tables("paper", [1], datasets=["mnist"])
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        compare_tables("smoke", datasets=["minst"])
