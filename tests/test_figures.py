"""Tables and figures from finished runs."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy.signal import savgol_filter

from fedobp_lib import figures, grid, run_all
from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS
from fedobp_lib.paper import published_accuracy
from fedobp_lib.paths import figures_dir
from fedobp_lib.simulation import make_partition
from fedobp_lib.sweeps import missing
from fedobp_lib.tables import FINE_TUNED, accuracies, accuracy_table, readable


@pytest.fixture
def results(tmp_path):
    return run_all(grid("smoke", methods=["fedavg", "fedobp"], seeds=[0, 1], rounds=3))


def test_a_sweep_computes_only_what_is_missing(results, monkeypatch):
    configs = grid("smoke", methods=["fedavg", "fedobp"], seeds=[0, 1, 2], rounds=3)
    assert [(c.method, c.seed) for c in missing(configs)] == [("fedavg", 2), ("fedobp", 2)]
    assert missing(configs[:2]) == []
    assert [r.config.seed for r in results] == [0, 1, 0, 1]
    with pytest.raises(UserError, match="did you mean 'quick'"):
        grid("quik")


def test_a_grid_takes_lists_as_papermill_passes_them():
    plain = grid("smoke", ["digits"], [0.1, 0.5], ["fedobp"], [0, 1])
    assert grid("smoke", "digits", "[0.1, 0.5]", '["fedobp"]', "[0, 1]") == plain
    assert [c.seed for c in grid("smoke", methods="fedavg", seeds=0)] == [0]
    assert [c.seed for c in grid("smoke", methods="fedavg", seeds=range(2))] == [0, 1]
    with pytest.raises(UserError, match="not a list"):
        grid("smoke", "[digits")


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


def test_published_numbers_stand_beside_ours(results):
    table = accuracy_table(results).assign(dataset="mnist")
    published = published_accuracy().query("dataset == 'mnist' and alpha == 0.1")
    ours = published.set_index("method").loc["fedobp", "accuracy_mean_percent"]
    assert ours == 99.34 and len(published_accuracy()) == 208
    assert published_accuracy()["method"].notna().all()
    table.loc[table["method"] == "fedobp", ["published_mean", "published_std"]] = [99.34, 0.02]
    assert readable(table).loc["FedOBP", "mnist, alpha 0.1, published"] == "99.34 (0.02)"


def test_convergence_frame_smooths_each_run_and_averages_seeds():
    results = run_all(grid("smoke", methods=["fedavg"], seeds=[0, 1], rounds=12))
    frame = figures.convergence_frame(results)
    curves = [
        r.history.query("stage == 'before' and scope == 'cohort' and average == 'pooled'")[
            "accuracy"
        ]
        for r in results
    ]
    expected = np.mean([np.clip(savgol_filter(c, 9, 3), 0, 100) for c in curves], axis=0)
    np.testing.assert_allclose(frame["mean"], expected)
    spread = np.std([figures.smooth(c.to_numpy()) for c in curves], axis=0, ddof=1)
    np.testing.assert_allclose(frame["high"] - frame["mean"], spread)


def test_rounds_to_reach():
    frame = pd.DataFrame(
        {
            "dataset": "d", "alpha": 0.1, "round": [1, 2, 3] * 2,
            "method": ["fedobp"] * 3 + ["fedavg"] * 3, "mean": [50, 97, 100, 10, 20, 30],
        }
    )  # fmt: skip
    table = figures.rounds_to_reach(frame, 0.95).set_index("method")["round"]
    assert table["fedobp"] == 2 and pd.isna(table["fedavg"])


def test_figures_are_saved_alike_twice(results):
    frame = figures.convergence_frame(results)
    written = []
    for _ in range(2):
        figures.save(figures.plot_convergence(frame), frame, "curves", "smoke")
        folder = figures_dir("smoke")
        written.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert set(written[0]) == {"curves.pdf", "curves.png", "curves.csv"}
    assert written[0] == written[1]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "curves.csv"), frame)


def overlaps(figure):
    figure.draw_without_rendering()
    for axis in figure.axes:
        # An annotation's own extent has its arrow in it.
        boxes = [Text.get_window_extent(t) for t in axis.texts if t.get_text()]
        for i, one in enumerate(boxes):
            for other in boxes[i + 1 :]:
                if one.overlaps(other):
                    return True
    return False


WHAT = {"dataset": "digits", "alpha": 0.1, "stage": "before", "scope": "cohort",
        "average": "pooled"}  # fmt: skip


def test_labels_at_line_ends_do_not_overlap():
    rounds = np.arange(1, 41)
    lines = [
        pd.DataFrame(
            {
                **WHAT, "method": f"method-{i}", "round": rounds, "mean": 90 + 0.01 * i,
                "low": 60, "high": 91, "seeds": 1,
            }
        )
        for i in range(figures.MANY)
    ]  # fmt: skip
    assert not overlaps(figures.plot_convergence(pd.concat(lines)))


def test_every_other_plot_draws(results):
    from fedobp_lib.datasets import load

    config = grid("smoke")[0].resolved()
    labels = load("digits").labels
    drawn = [
        figures.plot_accuracy(accuracy_table(results)),
        figures.plot_partition(make_partition(config, load("digits")), labels, "split"),
    ]
    for figure in drawn:
        figure.canvas.draw()
        assert figure.axes


def test_score_histogram_holds_every_score_and_counts_what_is_personal():
    scores = np.concatenate([np.geomspace(1e-9, 1, 91), np.zeros(9)]).astype(np.float32)
    layers = {"a": slice(0, 50), "b": slice(50, 100)}
    tau = float(np.quantile(scores, 0.9))
    frame = figures.score_histogram(scores, tau, layers)
    by_layer = frame.groupby("layer")
    assert by_layer["parameters"].sum().to_dict() == {"a": 50, "b": 41}  # zeros are off the axis
    assert by_layer["layer_personal"].first().to_dict() == {"a": 0, "b": 10}
    assert by_layer["layer_below"].first().to_dict() == {"a": 0, "b": 9}
    figures.plot_scores(frame, tau).draw_without_rendering()
    nothing = figures.score_histogram(np.zeros(100), 0.0, layers)
    assert not nothing["parameters"].any()
    figures.plot_scores(nothing, 0.0).draw_without_rendering()


def test_many_methods_get_a_panel_each():
    """Best first, FedOBP's own panel in its colour, every curve where its frame says."""
    rounds = np.arange(1, 6)
    lines = []
    for number, method in enumerate(list(METHODS)[: figures.MANY + 2]):
        mean = 40.0 + number + rounds
        lines.append(
            pd.DataFrame({**WHAT, "method": method, "round": rounds,
                          "mean": mean, "seeds": 2, "low": mean - 1, "high": mean + 1})
        )  # fmt: skip
    figure = figures.plot_convergence(pd.concat(lines))
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    shown = [title.split("  ")[0] for title in titles if title]
    assert {axis.get_xlabel() for axis in figure.axes[len(shown) - 4 : len(shown)]} == {"round"}
    told = [text.get_text() for block in figure.subfigs for text in block.texts]
    assert any("clients of the round, pooled, before training" in text for text in told)
    best_first = list(METHODS)[: figures.MANY + 2][::-1]
    assert shown == [METHODS[method].title for method in best_first]
    for axis, line in zip(figure.axes, lines[::-1], strict=False):
        assert any(np.array_equal(drawn.get_ydata(), line["mean"]) for drawn in axis.get_lines()
                   if drawn.get_linewidth() > 1.5)  # fmt: skip
