"""Logged runs in the form of our own: the tables and figures take them."""

import pytest

from fedobp_lib import UserError
from fedobp_lib.results.compare import compare_normalizations
from fedobp_lib.results.convergence import convergence_frame
from fedobp_lib.results.layers import layer_frame, layer_table
from fedobp_lib.results.logged import folder_of, logged_results
from fedobp_lib.results.quantiles import quantile_frame
from fedobp_lib.results.tables import accuracy_table

SHARES = {  # classifier's share of the personal parameters after round 300, as the note has it
    "cifar100": 0.99, "medmnistA": 0.97, "medmnistC": 0.94, "cifar10": 0.84, "svhn": 0.79,
    "emnist": 0.77,
}  # fmt: skip


def test_the_accuracy_table_of_the_logs():
    table = accuracy_table(logged_results("accuracy", ["cifar10"], [0.1]))
    row = table.set_index("method").loc["fedobp"]
    assert row["mean"] == row["logged_mean"] == 87.75 and row["published_mean"] != 87.75
    tuned = table.set_index("method").loc["fedavg-fine-tuned"]
    assert tuned["mean"] == 87.50 and tuned["stage"] == "after"


def test_28_of_table_8s_32_cells_are_the_best_logged_evaluation():
    table = compare_normalizations(logged_results("normalization"))
    off = table[(table["mean"].round(2) - table["published_mean"]).abs() > 0.005]
    assert len(table) == 32 and len(off) == 4
    assert set(off["normalization"]) == {"global_classifier_only"}
    assert set(off["dataset"]) == {"mnist", "fmnist", "medmnistA", "medmnistC"}


def test_classifier_shares_after_round_300():
    table = layer_table(layer_frame(logged_results("layers")))
    shares = table[table["layer"] == "classifier"].set_index("dataset")["share_of_personalized"]
    assert {name: round(share / 100, 2) for name, share in shares.items()} == SHARES


def test_curves_and_scores():
    results = logged_results("accuracy", methods=["fedavg", "fedobp"], datasets="svhn", alphas=0.5)
    curves = convergence_frame(results)
    assert set(curves["method"]) == {"fedavg", "fedobp"} and curves["round"].max() == 400
    frame = quantile_frame(logged_results("scores", ["cifar10"]))
    assert set(frame["score"]) == {"gradient", "fisher", "obp"} and (frame["seeds"] == 1).all()


def test_what_is_asked_for_is_chosen():
    results = logged_results("accuracy", '["mnist"]', [0.1], "fedavg")
    assert [r.config.method for r in results] == ["fedavg"]
    # Logged twice; the printed cell is made of the latest.
    assert results[0].accuracy(which="best") == 98.80
    assert logged_results("accuracy", ["digits"]) == []
    assert folder_of("ours", "quick") == "quick" and folder_of("logged", "quick") == "authors"
    with pytest.raises(UserError, match="did you mean 'logged'"):
        folder_of("loged", "quick")
