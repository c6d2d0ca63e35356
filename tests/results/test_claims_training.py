"""Remarks on what local training changes, on made-up runs of six columns and on the logs."""

import csv

import pytest
from helpers import ROOT
from helpers.fake_runs import fake_run

from fedobp_lib.results.claims import claims_table
from fedobp_lib.results.claims.training import logged_methods

COLUMNS = [(dataset, alpha) for dataset in ("mnist", "fmnist", "svhn") for alpha in (0.1, 0.5)]
LOG = ROOT / "fedobp_lib" / "paper" / "authors" / "evaluations.csv"


def verdicts(folder, before, after, columns=COLUMNS, methods=None):
    """`before` and `after` by method, a value a column or one for all; all others 50 and 60."""

    def value(table, method, other, column):
        found = table.get(method, other)
        return found[column] if isinstance(found, list) else found

    results = [
        fake_run(folder, value(before, method, 50.0, i), tuned=value(after, method, 60.0, i),
                 dataset=dataset, alpha=alpha, method=method)
        for i, (dataset, alpha) in enumerate(columns)
        for method in (methods or logged_methods())
    ]  # fmt: skip
    frame = claims_table(results, "table", 6).set_index("id")
    assert (
        claims_table(results, "table", 1)
        .set_index("id")
        .loc[frame.index[-5:]]
        .equals(frame.loc[frame.index[-5:]])
    )
    return frame["verdict"]


@pytest.mark.parametrize(
    ("tuned", "expected"),
    [
        ([70.0] * 6, "holds"),
        ([71.0, 69.5] * 3, "holds"),  # ahead on average
        ([70.5, 69.0] * 3, "holds"),  # behind on average, but it might be chance
        ([69.0] * 6, "does not hold"),
        ([69.9, 69.5] * 3, "does not hold"),  # behind everywhere
    ],
)
def test_fine_tuned_fedavg_is_as_good_unless_the_whole_interval_says_otherwise(
    tmp_path, tuned, expected
):
    found = verdicts(tmp_path, {"fedobp": 70.0}, {"fedavg": tuned})
    assert found["fine-tuned-fedavg"] == expected


def test_fewer_than_six_columns_settle_nothing(tmp_path):
    found = verdicts(tmp_path, {"fedobp": 70.0}, {"fedavg": 40.0}, COLUMNS[:5])
    names = ["fine-tuned-fedavg", "lead-before-training", "best-before", "best-after"]
    assert set(found[names]) == {"undecided"}
    assert verdicts(tmp_path, {}, {}, COLUMNS[:1], ["fedper"])["fine-tuned-fedavg"] == "not run"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(51.5, 60.9, "holds"), (50.9, 60.0, "does not hold"), (55.0, 61.1, "does not hold")],
)
def test_the_lead_is_one_before_training(tmp_path, before, after, expected):
    found = verdicts(tmp_path, {"fedobp": before}, {"fedobp": after})
    assert found["lead-before-training"] == expected


def test_who_is_best_needs_the_logged_methods_and_most_columns(tmp_path):
    best = [55.0] * 4 + [45.0] * 2
    found = verdicts(tmp_path, {"fedobp": best}, {"fedobp": [61.0] * 3 + [55.0] * 3})
    assert found["best-before"] == "holds" and found["best-after"] == "does not hold"
    assert found["close-after"] == "does not hold"  # 61 to 60 is a point
    found = verdicts(tmp_path, {}, {"fedobp": 60.99, "fedavg": 60.5})
    assert found["best-before"] == "holds"  # level
    assert found["best-after"] == "holds" and found["close-after"] == "holds"
    few = [method for method in logged_methods() if method != "floco"]
    found = verdicts(tmp_path, {"fedobp": best}, {}, methods=few)
    assert found["best-before"] == "undecided"


def test_it_is_said_which_few_methods_the_best_is_the_best_of(tmp_path):
    """A method without every column is not compared, and nobody is to think that it was."""
    results = [
        fake_run(tmp_path, value, tuned=value, dataset=dataset, method=method)
        for method, dataset, value in (
            ("fedavg", "mnist", 50.0), ("fedobp", "mnist", 60.0), ("fedper", "mnist", 70.0),
            ("fedavg", "fmnist", 50.0), ("fedobp", "fmnist", 60.0),
        )
    ]  # fmt: skip
    told = claims_table(results, "table", 6).set_index("id")["measured"]
    for name in ("best-before", "best-after", "close-after"):
        assert told[name].endswith(
            "(of those methods alone that have every column: FedAvg, FedOBP)"
        )
    every = [fake_run(tmp_path, 50.0, tuned=50.0, method=method) for method in logged_methods()]
    assert (
        "alone" not in claims_table(every, "table", 6).set_index("id").loc["best-before"].measured
    )


def test_what_the_log_says_against_a_plain_reading_of_it():
    runs = {}
    with LOG.open() as file:
        for row in csv.DictReader(file):
            if row["experiment"] == "accuracy" and row["round"] == "400":
                cell = runs.setdefault((row["dataset"], row["alpha"]), {})
                # Later runs of a configuration come later in the file.
                cell[row["method"]] = (int(row["run"]), float(row["after"]))
    best = 0
    for cell in runs.values():
        after = {method: value for method, (_, value) in cell.items()}
        best += after["fedobp"] == max(after.values())
    row = claims_table([], "table", 1).set_index("id").loc["best-after"]
    assert row["logged"].startswith("does not hold: ") and row["published"] == ""
    assert best <= 2 and len(runs) == 16 and "of 16" in row["logged"]


def test_fifty_on_cifar100_is_printed_and_not_logged(tmp_path):
    run = fake_run(tmp_path, 49.4, dataset="cifar100", alpha=0.1)
    row = claims_table([run], "table", 1).set_index("id").loc["cifar100-printed"]
    assert row["published"].startswith("holds") and row["logged"].startswith("does not hold")
    assert row["verdict"] == "holds"
    run = fake_run(tmp_path, 49.3, dataset="cifar100", alpha=0.1)
    assert (
        "does not"
        in claims_table([run], "table", 1).set_index("id").loc["cifar100-printed"].verdict
    )
