"""Ranks over data sets, against the literature, scipy and cases known beforehand."""

import numpy as np
import pandas as pd
import pytest
from helpers.fake_runs import fake_run
from matplotlib.text import Text
from scipy.stats import rankdata

from fedobp_lib import figures
from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS
from fedobp_lib.paper.published import published_accuracy
from fedobp_lib.results import ranks

# Demšar 2006, Table 5(a): q for the two-tailed Nemenyi test at 0.05, of 2 to 10 classifiers.
DEMSAR_Q = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102,
            10: 3.164}  # fmt: skip


def scores(table, seeds=1, noise=0.0):
    """Tidy scores of a table: a row a cell, a column a method."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            [f"data{number}", 0.1, method, seed, value + noise * rng.normal()]
            for number, row in enumerate(table)
            for method, value in row.items()
            for seed in range(seeds)
        ],
        columns=["dataset", "alpha", "method", "seed", "accuracy"],
    )


@pytest.mark.parametrize(("methods", "q"), DEMSAR_Q.items())
def test_the_critical_difference_is_that_of_the_literature(methods, q):
    for cells in (2, 14, 30):
        expected = q * np.sqrt(methods * (methods + 1) / (6 * cells))
        assert ranks.critical_difference(methods, cells) == pytest.approx(expected, rel=1e-3)


def test_demsars_example_of_four_classifiers_on_fourteen_data_sets():
    """The paper's Section 3.2.2: 1.25 at level 0.05, 1.12 at level 0.10."""
    assert ranks.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert ranks.critical_difference(4, 14, level=0.10) == pytest.approx(1.12, abs=0.005)


def test_ranks_of_the_published_tables():
    table = published_accuracy().pivot(
        index="method", columns=["dataset", "alpha"], values="accuracy_mean_percent"
    )
    by_hand = {
        column: rankdata(-table[column].to_numpy()) for column in table
    }  # rank 1: highest accuracy
    expected = pd.DataFrame(by_hand, index=table.index).mean(axis=1)
    found = ranks.mean_ranks(ranks.published_scores()).set_index("method")["rank"]
    assert found.to_dict() == pytest.approx(expected.to_dict())
    assert found.is_monotonic_increasing and len(found) == 13


def test_the_friedman_statistic_is_that_of_its_formula():
    """Without ties: 12 N / (k (k + 1)) (sum of squared mean ranks - k (k + 1)^2 / 4)."""
    rng = np.random.default_rng(1)
    table = [dict(zip("abcd", rng.normal(80, 3, 4), strict=True)) for _ in range(7)]
    frame = ranks.mean_ranks(scores(table))
    k, n = 4, 7
    statistic = 12 * n / (k * (k + 1)) * ((frame["rank"] ** 2).sum() - k * (k + 1) ** 2 / 4)
    assert frame["friedman"].to_numpy() == pytest.approx(statistic)
    assert (frame["cells"] == 7).all() and frame["rank"].sum() == pytest.approx(10)


def test_seeds_are_averaged_first_and_incomplete_cells_do_not_count():
    table = [{"a": 90, "b": 80, "c": 70}, {"a": 60, "b": 80, "c": 70}, {"a": 99, "b": 1}]
    tidy = scores(table)
    # A second seed turns the first cell round: the mean of a is now below that of b.
    tidy.loc[len(tidy)] = ["data0", 0.1, "a", 1, 60.0]
    frame = ranks.mean_ranks(tidy).set_index("method")
    assert frame["rank"].to_dict() == {"b": 1.0, "a": 2.5, "c": 2.5}
    assert frame["best"].to_dict() == {"b": 2, "a": 0, "c": 0}
    assert (frame["cells"] == 2).all()


def test_too_little_gives_no_number_but_a_sentence():
    few = [
        scores([{"a": 1, "b": 2, "c": 3}]),  # one cell
        scores([{"a": 1, "b": 2}, {"a": 1, "b": 2}]),  # two methods
        scores([{"a": 1, "b": 2}, {"a": 1, "c": 2}]),  # no complete cell
    ]
    for tidy in few:
        frame = ranks.mean_ranks(tidy)
        assert frame.empty and "No ranks" in ranks.told(frame)
        with pytest.raises(UserError, match="No ranks"):
            figures.plot_ranks(frame)
    one = ranks.pairwise(few[0], "a").set_index("against")
    assert one.loc["b", "losses"] == 1 and np.isnan(one[["low", "high"]]).all(axis=None)
    assert ranks.pairwise(few[0], "fedobp").empty
    assert ranks.measured_scores([]).empty and ranks.mean_ranks(ranks.measured_scores([])).empty
    same = ranks.mean_ranks(scores([{"a": 1, "b": 1, "c": 1}] * 3))
    assert (same["rank"] == 2).all() and "cannot be told apart" in ranks.told(same)


def test_groups_join_exactly_what_is_not_further_apart_than_the_critical_difference():
    rng = np.random.default_rng(2)
    for _ in range(200):
        values = np.sort(rng.uniform(1, 10, 8))
        width = rng.uniform(0.1, 6)
        frame = pd.DataFrame({"rank": values, "critical_difference": width})
        joined = ranks.groups(frame)
        for i, low in enumerate(values):
            for high in values[i + 1 :]:
                together = any(a <= low and high <= b for a, b in joined)
                assert together == (high - low <= width)
        for one in joined:
            assert not any(one != b and b[0] <= one[0] and one[1] <= b[1] for b in joined)


def test_pairs_count_wins_and_their_interval_covers_cells_and_seeds():
    table = [{"fedobp": 90 + d, "fedavg": 90, "fedper": 90 + d} for d in (4, 5, -1, 6, 5)]
    frame = ranks.pairwise(scores(table)).set_index("against")
    row = frame.loc["fedavg"]
    assert (row["wins"], row["ties"], row["losses"], row["cells"]) == (4, 0, 1, 5)
    assert row["difference"] == pytest.approx(3.8)
    # The same by drawing cells in the plainest way.
    rng, drawn = np.random.default_rng(7), []
    for _ in range(20_000):
        drawn.append(rng.choice([4, 5, -1, 6, 5], 5).mean())
    assert (row["low"], row["high"]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.15)
    assert frame.loc["fedper", ["ties", "low", "high"]].tolist() == [5, 0, 0]
    assert frame.index.tolist() == ["fedavg", "fedper"]

    equal = [{"fedobp": 93, "fedavg": 90}] * 5
    assert ranks.pairwise(scores(equal))[["low", "high"]].iloc[0].tolist() == [3, 3]
    noisy = ranks.pairwise(scores(equal, seeds=4, noise=1.0)).iloc[0]
    assert noisy["high"] - noisy["low"] > 0.5
    pd.testing.assert_frame_equal(
        ranks.pairwise(scores(equal, 4, 1.0)), ranks.pairwise(scores(equal, 4, 1.0)[::-1])
    )


def test_runs_are_ranked_by_the_published_metric(tmp_path):
    results = [
        fake_run(tmp_path, [best, 10.0], tuned=99.0, method=method, alpha=alpha, rounds=2)
        for alpha in (0.1, 0.5)
        for method, best in (("fedavg", 50.0), ("fedper", 60.0), ("fedobp", 70.0))
    ]
    tidy = ranks.measured_scores(results)
    assert set(tidy["accuracy"]) == {50.0, 60.0, 70.0}  # not 10, the last, nor 99, the tuned
    assert ranks.mean_ranks(tidy)["method"].tolist() == ["fedobp", "fedper", "fedavg"]


@pytest.mark.parametrize("methods", [3, 13, len(METHODS)])
def test_the_picture_names_every_method_without_overlap(methods):
    rng = np.random.default_rng(methods)
    names = ["fedobp", *(name for name in METHODS if name != "fedobp")][:methods]
    table = [{name: rng.normal(80, 5) for name in names} for _ in range(4)]
    frame = ranks.mean_ranks(scores(table))
    figure = figures.plot_ranks(frame)
    figure.draw_without_rendering()
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    shown = " ".join(text.get_text() for text in texts)
    assert all(METHODS[name].title in shown for name in names)
    boxes = [Text.get_window_extent(text) for text in texts]
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])
    thick = [text for text in texts if text.get_fontweight() == "bold"]
    assert len(thick) == 1 and "FedOBP" in thick[0].get_text()
    # Black bars below the axis are the groups, each from its best to its worst rank.
    drawn = [line for line in figure.axes[0].get_lines() if line.get_linewidth() > 3]
    for line, (low, high) in zip(drawn, ranks.groups(frame), strict=True):
        assert line.get_xdata() == pytest.approx([low, high], abs=0.01 * methods)
