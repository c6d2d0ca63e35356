"""Frames of the score, layer and normalization figures, against a slow second computation."""

import numpy as np
import pandas as pd
import pytest
from helpers.drawn import overlaps
from helpers.fake_runs import SIZES, fake_run, make_runs, read

from fedobp_lib import figures
from fedobp_lib.paths import figures_dir, runs_dir
from fedobp_lib.results.layers import layer_frame, layer_table, variant_layers
from fedobp_lib.results.quantiles import quantile_frame
from fedobp_lib.runs.experiments import layer_runs, normalization_runs, score_runs
from fedobp_lib.runs.normalizations import normalization_of


def shares(result):
    """{round: {layer: percent}} of the rounds in which anything is personalized."""
    found = {}
    rows = read(result, "layers")
    for number in {int(row["round"]) for row in rows}:
        counts = {r["layer"]: float(r["personalized"]) for r in rows if int(r["round"]) == number}
        if sum(counts.values()):
            found[number] = {k: 100 * v / sum(counts.values()) for k, v in counts.items()}
    return found


def draw(configs, kind):
    results = make_runs(configs)
    if kind == "scores":
        frame = quantile_frame(results)
        return frame, figures.plot_quantile_curves(frame)
    if kind == "layers":
        frame = layer_frame(results)
        return frame, figures.plot_layers(frame)
    frame = variant_layers(results, normalization_of)
    return frame, figures.plot_variant_layers(frame)


@pytest.mark.parametrize(
    ("kind", "configs"),
    [("scores", score_runs), ("layers", layer_runs), ("bars", normalization_runs)],
)
def test_figures_have_the_same_bytes_when_made_again(kind, configs, monkeypatch, tmp_path):
    written = []
    for time in ("first", "second"):
        monkeypatch.setenv("FEDOBP_RUNS", str(tmp_path / time))
        frame, figure = draw(configs("smoke", datasets=["mnist"], seeds=[0, 1], rounds=6), kind)
        assert not overlaps(figure)
        folder = figures.save(figure, frame, kind, "smoke")
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1] and set(written[0]) == {
        f"{kind}.{e}" for e in ("csv", "pdf", "png")
    }
    pd.testing.assert_frame_equal(pd.read_csv(figures_dir("smoke") / f"{kind}.csv"), frame)


def test_the_enlarged_axis_spreads_the_nines_and_ends_at_one():
    panel = pd.DataFrame({"quantile": [0.0, 0.99, 0.999, 0.9999, 0.99999, 1.0]})
    places = figures.nines(panel["quantile"][1:], panel)
    np.testing.assert_allclose(places[:4], [2, 3, 4, 5], rtol=1e-6)
    assert 5 < places[4] < 6


def test_runs_without_a_personal_parameter_are_drawn_empty():
    config = layer_runs("smoke", rounds=2)[0]
    results = [fake_run(runs_dir(), shares=[dict.fromkeys(SIZES, 0)] * 2, **vars(config))]
    frame = layer_frame(results)
    assert frame.empty and layer_table(frame).empty
    figures.plot_layers(frame).draw_without_rendering()
    figures.plot_variant_layers(
        variant_layers(results, lambda config: "none")
    ).draw_without_rendering()
