"""The authors' logged numbers: whole, and saying what the note that came with them says."""

from importlib.resources import files

import pandas as pd
import pytest

from fedobp_lib.paper import logged

PARITY = {  # FedOBP before (best of four evaluations), FedAvg after local training in round 400
    0.1: {
        "cifar10": (87.75, 87.50), "cifar100": (46.08, 46.89), "emnist": (94.95, 94.84),
        "svhn": (95.85, 95.91), "mnist": (99.40, 99.47), "fmnist": (96.93, 96.97),
    },
    0.5: {
        "cifar10": (71.08, 72.55), "cifar100": (28.18, 28.83), "emnist": (89.05, 89.29),
        "svhn": (92.14, 92.82), "mnist": (99.08, 99.29), "fmnist": (92.63, 93.56),
    },
}  # fmt: skip


def test_the_files_are_whole_and_small():
    folder = files("fedobp_lib.paper") / "authors"
    assert sum(len(path.read_bytes()) for path in folder.iterdir()) < 1_000_000
    assert len(logged.logged_runs()) == 675
    assert set(logged.logged_runs()["seed"]) == {42}
    assert len(logged.logged_sheets()) == 480
    assert set(logged.logged_accuracy()["momentum"]) == {0.0, 0.7}


@pytest.mark.parametrize("alpha", PARITY)
def test_fedobp_and_fine_tuned_fedavg(alpha):
    frame = logged.logged_accuracy().query("momentum == 0.7 and alpha == @alpha")
    for dataset, (ours, tuned) in PARITY[alpha].items():
        cell = frame[frame["dataset"] == dataset]
        before = cell.query("method == 'fedobp' and stage == 'before'")["accuracy"].max()
        after = cell.query("method == 'fedavg' and stage == 'after' and round == 400")
        assert before == ours
        assert tuned in set(after["accuracy"])  # MNIST was logged twice


def test_nothing_that_was_not_evaluated_counts_as_zero():
    assert logged.logged_accuracy()["accuracy"].min() > 1
    assert logged.logged_curves()["accuracy"].min() > 0


def test_the_quantiles_of_the_ablation():
    frame = logged.logged_normalizations().groupby(["dataset", "normalization"])["quantile"].first()
    assert frame["cifar100", "none"] == frame["cifar100", "global"] == 0.99505
    assert frame["cifar100", "global_classifier_only"] == 0.91078
    assert frame["mnist", "none"] == 0.9995 and frame["mnist", "global_classifier_only"] == 0.9433


def test_each_score_has_its_own_logs():
    frame = logged.logged_scores()
    assert set(frame["score"]) == {"gradient", "fisher", "obp"}
    assert frame.loc[frame["score"] == "obp", "ema"].notna().all()
    assert frame.loc[frame["score"] != "obp", "ema"].isna().all()
    assert not frame["accuracy"].isna().any()


def test_a_frame_can_be_changed_without_changing_the_next_one():
    first = logged.logged_runs()
    first["seed"] = 0
    pd.testing.assert_series_equal(logged.logged_runs()["seed"], pd.Series([42] * 675, name="seed"))
