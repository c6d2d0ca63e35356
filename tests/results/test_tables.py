"""Tables and frames from finished runs."""

import numpy as np
import pandas as pd
import pytest
from scipy.signal import savgol_filter

from fedobp_lib import figures, grid, run_all
from fedobp_lib.paper.published import published_accuracy
from fedobp_lib.results.convergence import convergence_frame, rounds_to_reach, smooth
from fedobp_lib.results.inspection import score_histogram
from fedobp_lib.results.tables import FINE_TUNED, accuracies, accuracy_table, readable


@pytest.fixture
def results(tmp_path):
    return run_all(grid("smoke", methods=["fedavg", "fedobp"], seeds=[0, 1], rounds=3))


def test_accuracy_table_is_mean_and_deviation_over_seeds(results):
    table = accuracy_table(results, average="client_mean", which="best").set_index("method")
    for method in ("fedavg", "fedobp"):
        best = [
            r.accuracy(average="client_mean", which="best")
            for r in results
            if r.config.method == method
        ]
        assert table.loc[method, "mean"] == pytest.approx(np.mean(best))
        assert table.loc[method, "std"] == pytest.approx(np.std(best, ddof=1))
        assert table.loc[method, "seeds"] == 2
    tuned = [r.accuracy("after", average="client_mean") for r in results[:2]]
    assert table.loc["fedavg-fine-tuned", "mean"] == pytest.approx(np.mean(tuned))
    assert table["published_mean"].isna().all()
    text = readable(table.reset_index())
    assert FINE_TUNED in text.index and list(text.columns) == ["digits, alpha 0.1"]
    assert len(accuracies(results)) == 4 * 2 * 2


def test_a_run_given_twice_is_no_second_seed(results):
    once = accuracy_table(results)
    pd.testing.assert_frame_equal(accuracy_table([*results, *results]), once)
    named_twice = grid("smoke", methods=["fedavg"] * 2, seeds=[0, 0], rounds=3)
    table = accuracy_table(run_all(named_twice))
    assert (table["seeds"] == 1).all() and table["std"].isna().all()


def test_published_numbers_stand_beside_ours(results):
    table = accuracy_table(results).assign(dataset="mnist")
    published = published_accuracy().query("dataset == 'mnist' and alpha == 0.1")
    ours = published.set_index("method").loc["fedobp", "accuracy_mean_percent"]
    assert ours == 99.34 and len(published_accuracy()) == 208
    assert published_accuracy()["method"].notna().all()
    table.loc[table["method"] == "fedobp", ["published_mean", "published_std"]] = [99.34, 0.02]
    assert readable(table).loc["FedOBP", "mnist, alpha 0.1, printed"] == "99.34 (0.02)"


def test_convergence_frame_smooths_each_run_and_averages_seeds():
    results = run_all(grid("smoke", methods=["fedavg"], seeds=[0, 1], rounds=12))
    frame = convergence_frame(results)
    curves = [
        r.history.query("stage == 'before' and scope == 'cohort' and average == 'pooled'")[
            "accuracy"
        ]
        for r in results
    ]
    expected = np.mean([np.clip(savgol_filter(c, 9, 3), 0, 100) for c in curves], axis=0)
    np.testing.assert_allclose(frame["mean"], expected)
    spread = np.std([smooth(c.to_numpy()) for c in curves], axis=0, ddof=1)
    np.testing.assert_allclose(frame["high"] - frame["mean"], spread)


def test_rounds_to_reach():
    frame = pd.DataFrame(
        {
            "dataset": "d", "alpha": 0.1, "round": [1, 2, 3] * 2,
            "method": ["fedobp"] * 3 + ["fedavg"] * 3, "mean": [50, 97, 100, 10, 20, 30],
        }
    )  # fmt: skip
    table = rounds_to_reach(frame, 0.95).set_index("method")["round"]
    assert table["fedobp"] == 2 and pd.isna(table["fedavg"])


def test_score_histogram_holds_every_score_and_counts_what_is_personal():
    scores = np.concatenate([np.geomspace(1e-9, 1, 91), np.zeros(9)]).astype(np.float32)
    layers = {"a": slice(0, 50), "b": slice(50, 100)}
    tau = float(np.quantile(scores, 0.9))
    frame = score_histogram(scores, tau, layers)
    by_layer = frame.groupby("layer")
    assert by_layer["parameters"].sum().to_dict() == {"a": 50, "b": 41}  # zeros are off the axis
    assert by_layer["layer_personal"].first().to_dict() == {"a": 0, "b": 10}
    assert by_layer["layer_below"].first().to_dict() == {"a": 0, "b": 9}
    figures.plot_scores(frame, tau).draw_without_rendering()
    nothing = score_histogram(np.zeros(100), 0.0, layers)
    assert not nothing["parameters"].any()
    figures.plot_scores(nothing, 0.0).draw_without_rendering()
