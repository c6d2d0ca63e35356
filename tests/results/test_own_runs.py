"""Our own runs beside the logs: which of them have a counterpart, and the tables made of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers.fake_runs import fake_run

from fedobp_lib.paper.logged import logged_accuracy, logged_normalizations
from fedobp_lib.results.own_runs import (
    agreement,
    as_logged,
    beside_logs,
    cifar100_question,
    marked,
)
from fedobp_lib.results.own_runs import main_table as table_of
from fedobp_lib.runs.as_logged import logged_settings
from fedobp_lib.runs.round100 import CIFAR100, CIFAR100_WORDS


def one(folder, accuracy, method, dataset="mnist", rounds=100, tuned=99.0, **config):
    settings = config.pop("settings", logged_settings(method, dataset, 0.1))
    made = fake_run(
        folder, accuracy, tuned=tuned, dataset=dataset, rounds=rounds, method=method,
        settings=settings, precision="bf16", **config,
    )  # fmt: skip
    pd.DataFrame({"test_samples": [17500]}).to_csv(made.directory / "clients.csv", index=False)
    return made


def logged(method, dataset="mnist", stage="before", round_=100):
    frame = logged_accuracy().query(
        "dataset == @dataset and alpha == 0.1 and method == @method and momentum == 0.7"
        " and stage == @stage and round == @round_"
    )
    return frame.sort_values("run")["accuracy"].iloc[-1]


def test_only_runs_with_the_logged_settings_and_momentum_stand_beside_the_logs(tmp_path):
    same = one(tmp_path, 95.0, "fedobp")
    others = [
        one(tmp_path, 95.0, "fedobp", settings={"quantile": 0.9}),
        one(tmp_path, 95.0, "fedobp", momentum=0.0),
        one(tmp_path, 95.0, "floco", settings={}),
    ]
    assert as_logged([*others, same]) == [same]


def test_a_pair_that_differs_has_the_known_reason_or_says_that_there_is_none(tmp_path):
    runs = [
        one(tmp_path, logged("fedavg") - 20, "fedavg", tuned=logged("fedavg", stage="after")),
        one(tmp_path, logged("apfl") - 20, "apfl", tuned=logged("apfl", stage="after")),
        one(tmp_path, 99.0, "fedspa"),  # no counterpart
    ]
    table = beside_logs(runs).set_index(["method", "stage"])
    assert set(table.index.get_level_values("method")) == {"fedavg", "apfl"}
    assert table.loc[("fedavg", "before"), "reason"] == "none known"
    assert "twice" in table.loc[("apfl", "before"), "reason"]
    assert table.loc[("apfl", "after"), "reason"] == ""
    assert agreement(table.reset_index()) == (2, 4)


def test_the_compressed_copy_does_not_count_in_the_agreement(tmp_path):
    table = beside_logs([one(tmp_path, 10.0, "fedavg", "cifar10", tuned=10.0)])
    assert len(table) == 2 and agreement(table) == (0, 0)


def test_the_main_table_has_ours_and_the_logged_value_in_each_cell(tmp_path):
    runs = [
        one(tmp_path, 90.0, "fedavg"),
        one(tmp_path, 97.0, "fedobp"),
        one(tmp_path, 96.0, "ffgg"),
        one(tmp_path, 80.0, "fedobp", "fmnist"),
    ]
    table = table_of(runs).set_index("method")
    assert table.loc["FedAvg", "mnist 0.1"] == f"90.00 ({logged('fedavg'):.2f})"
    after = logged("fedavg", stage="after")
    assert table.loc["FedAvg + fine-tuning", "mnist 0.1"] == f"99.00 ({after:.2f})"
    assert table.loc["FFGG", "mnist 0.1"] == "96.00 (-)"
    assert table.loc["FedAvg", "fmnist 0.1"] == "-"
    assert table.loc["FedOBP", "fmnist 0.1"].startswith("80.00")


def test_the_main_table_is_in_the_order_of_its_first_column(tmp_path):
    """Whatever the others say; methods without it come last, in the order of the next."""
    runs = [
        one(tmp_path, 97.0, "fedobp"),
        one(tmp_path, 98.0, "ffgg"),
        one(tmp_path, 99.0, "fedobp", "fmnist"),
        one(tmp_path, 10.0, "ffgg", "fmnist"),
        one(tmp_path, 20.0, "fedspa", "fmnist"),
        one(tmp_path, 30.0, "fedala", "fmnist"),
    ]
    assert table_of(runs)["method"].to_list() == ["FFGG", "FedOBP", "FedALA", "FedSpa"]
    assert table_of([]).empty


def test_a_star_stands_at_what_is_no_exact_copy():
    table = pd.DataFrame({"dataset": ["mnist", "cifar10", "cifar100"]})
    assert marked(table)["dataset"].to_list() == ["mnist", "cifar10*", "cifar100"]
    assert table["dataset"][1] == "cifar10"


@pytest.mark.parametrize("number", range(3))
def test_each_fedobp_on_cifar100_has_its_own_counterpart(tmp_path, number):
    values = [40.0, 41.0, 42.0, 43.0]
    run = one(tmp_path, values, "fedobp", "cifar100", rounds=400, settings=CIFAR100[number])
    table = cifar100_question([run]).set_index("round")
    assert set(table["what"]) == {CIFAR100_WORDS[number]}
    assert table["before"].to_list() == values and set(table["printed"]) == {50.37}
    ablation = logged_normalizations().query("dataset == 'cifar100' and normalization == 'global'")
    theirs = {
        0: logged("fedobp", "cifar100", round_=400),
        1: ablation.set_index("round").loc[400, "accuracy"],
    }
    if number in theirs:
        assert table.loc[400, "logged"] == theirs[number]
        after = logged("fedobp", "cifar100", "after", 400) if number == 0 else np.nan
        assert table.loc[400, "logged_after"] == pytest.approx(after, nan_ok=True)
    else:
        assert table["logged"].isna().all() and set(table["logged_as"]) == {""}
