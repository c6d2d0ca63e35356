"""Frames of the score, layer and normalization figures, against a slow second computation."""

from statistics import mean, stdev

import numpy as np
import pandas as pd
import pytest
from helpers.fake_runs import SIZES, make_runs, read

from fedobp_lib.results.convergence import convergence_frame
from fedobp_lib.results.layers import layer_frame, layer_table, variant_layers
from fedobp_lib.results.quantiles import quantile_frame, score_peaks
from fedobp_lib.runs.experiments import layer_runs, normalization_runs, score_runs
from fedobp_lib.runs.normalizations import ALL_NORMALIZATIONS, normalization_of

SETTING = {"datasets": ["cifar10", "mnist"], "seeds": [0, 1], "rounds": 8}


@pytest.mark.parametrize("which", ["best", "last"])
def test_quantile_frame(which):
    results = make_runs(score_runs("smoke", **SETTING))
    cells = {}
    for result in results:
        values = [
            float(row["accuracy"])
            for row in read(result, "history")
            if (row["stage"], row["scope"], row["average"]) == ("before", "all", "pooled")
        ]
        settings = result.config.settings
        key = (result.config.dataset, settings["score"], settings["quantile"])
        value = max(values) if which == "best" else values[-1]
        last = sum(float(r["personalized"]) for r in read(result, "layers") if r["round"] == "8")
        cells.setdefault(key, []).append((value, last))
    frame = quantile_frame(results, which)
    assert len(frame) == len(cells) == 2 * 3 * 4
    for row in frame.itertuples():
        values, counts = zip(*cells[row.dataset, row.score, row.quantile], strict=True)
        assert (row.mean, row.std) == pytest.approx((mean(values), stdev(values)))
        assert row.personal == mean(counts) and row.seeds == 2
    for row in score_peaks(frame).itertuples():
        line = frame.query("dataset == @row.dataset and score == @row.score")
        assert row.mean == line["mean"].max()


def test_of_equally_good_quantiles_the_one_that_keeps_least():
    frame = pd.DataFrame(
        {"dataset": "d", "alpha": 0.1, "score": "obp", "quantile": [0.99, 0.9, 0.999, 0.5],
         "personal": [10, 100, 1, 500], "mean": [97.0, 97.0, 96.0, 90.0]}
    )  # fmt: skip
    assert score_peaks(frame)["personal"].tolist() == [10]


def shares(result):
    """{round: {layer: percent}} of the rounds in which anything is personalized."""
    found = {}
    rows = read(result, "layers")
    for number in {int(row["round"]) for row in rows}:
        counts = {r["layer"]: float(r["personalized"]) for r in rows if int(r["round"]) == number}
        if sum(counts.values()):
            found[number] = {k: 100 * v / sum(counts.values()) for k, v in counts.items()}
    return found


def test_layer_frame_and_table():
    results = make_runs(layer_runs("smoke", **SETTING))
    frame = layer_frame(results)
    by_hand = {}
    for result in results:
        for number, layers in shares(result).items():
            for layer, share in layers.items():
                by_hand.setdefault((result.config.dataset, number, layer), []).append(share)
    assert len(frame) == len(by_hand) == 2 * 7 * 4  # nothing is personalized in the first round
    for row in frame.itertuples():
        values = by_hand[row.dataset, row.round, row.layer]
        assert row.mean == pytest.approx(mean(values))
        assert row.high - row.mean == pytest.approx(stdev(values)) and row.seeds == 2
    np.testing.assert_allclose(frame.groupby(["dataset", "round"])["mean"].sum(), 100)
    for row in layer_table(frame).itertuples():
        late = [mean(by_hand[row.dataset, number, row.layer]) for number in (7, 8)]
        assert row.after_round == 6 and row.share_of_personalized == pytest.approx(mean(late))
        size = 100 * SIZES[row.layer] / sum(SIZES.values())
        assert row.share_of_parameters == pytest.approx(size)


def test_the_stable_part_of_a_long_run_begins_after_round_300():
    frame = pd.DataFrame(
        {"dataset": "d", "alpha": 0.1, "round": [299, 300, 301, 450], "layer": "conv1",
         "parameters": 5, "mean": [1.0, 2.0, 10.0, 20.0]}
    )  # fmt: skip
    row = layer_table(frame).iloc[0]
    assert (row["after_round"], row["share_of_personalized"]) == (300, 15.0)


def test_variants_of_the_normalization():
    results = make_runs(normalization_runs("smoke", **SETTING))
    names = [normalization_of(result.config) for result in results]
    assert set(names) == set(ALL_NORMALIZATIONS)
    for name, result in zip(names, results, strict=True):
        assert result.config.settings.items() >= ALL_NORMALIZATIONS[name].items()
    frame = variant_layers(results, normalization_of)
    assert len(frame) == 2 * 6 * 4
    for row in frame.itertuples():
        seeds = [
            shares(result)[8][row.layer]
            for name, result in zip(names, results, strict=True)
            if (name, result.config.dataset) == (row.variant, row.dataset)
        ]
        assert (row.share, row.std) == pytest.approx((mean(seeds), stdev(seeds)))
    curves = convergence_frame(results, name=normalization_of)
    assert set(curves["method"]) == set(ALL_NORMALIZATIONS) and (curves["seeds"] == 2).all()
