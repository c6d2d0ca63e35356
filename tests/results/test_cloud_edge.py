"""What a client has to do for an accuracy, and who scores."""

import pandas as pd
import pytest
from helpers.fake_runs import fake_run
from matplotlib.figure import Figure

from fedobp_lib import RunConfig, figures, run_all
from fedobp_lib.paths import runs_dir
from fedobp_lib.results.cloud_edge import (
    beside_simulations,
    client_costs,
    same_histories,
    wire_table,
)
from fedobp_lib.results.costs import costs
from fedobp_lib.runs.experiments import cloud_edge_runs

SERVER = {"scoring": "server"}
SPARSE = {"scoring": "server", "downlink": "sparse"}


@pytest.fixture
def results():
    """Of two seeds; FedOBP is scored in three ways, with one accuracy."""
    made = [
        fake_run(runs_dir(), accuracy + seed, method=method, seed=seed, settings=settings)
        for seed in (0, 1)
        for method, accuracy, settings in (
            ("fedavg", 60.0, {}),
            ("fedobp", 80.0, {}),
            ("fedobp", 80.0, SPARSE),
            ("fedobp", 80.0, SERVER),
            ("local-only", 70.0, {}),
        )
    ]
    return made


def test_accuracies_stand_beside_what_a_client_has_to_do(results):
    table = client_costs(results)
    assert table["title"].tolist() == [
        "FedAvg", "Local-Only", "FedOBP", "FedOBP, server", "FedOBP, server, sparse"
    ]  # fmt: skip
    assert table["mean"].tolist() == [60.5, 70.5, 80.5, 80.5, 80.5]
    assert (table["seeds"] == 2).all() and table["std"].tolist() == pytest.approx([0.5**0.5] * 5)
    rows = table.set_index("title")
    model = 4 * 582026 / 1e6  # AvgCNN's parameters for the digits, in fp32
    assert rows.loc["FedAvg", "relative"] == 1 and rows.loc["FedAvg", "kept"] == 0
    assert rows.loc["Local-Only", "megabytes"] == 0
    assert rows.loc["FedOBP", "relative"] > 1 and rows.loc["FedOBP", "kept"] == model
    # What the clients need not keep, the server does, for each of them.
    for title in ("FedOBP, server", "FedOBP, server, sparse"):
        assert rows.loc[title, "kept"] == 0 and rows.loc[title, "relative"] == 1
        assert rows.loc[title, "server"] == pytest.approx(21 * model)
    spent = costs([RunConfig(method="fedobp")]).query("round == 4 and side == 'client'")
    flops = spent[spent["quantity"] == "flops"]["value"].sum()
    assert rows.loc["FedOBP", "gflop"] == pytest.approx(flops / 1e9)
    without = client_costs([result for result in results if result.config.method != "fedavg"])
    assert without["relative"].isna().all()


def test_the_figure_has_a_row_for_each_and_prints_each_cost(results):
    figure = figures.plot_costs(client_costs(results))
    assert isinstance(figure, Figure)
    accuracy, computing, traffic, kept = figure.axes
    names = [label.get_text() for label in accuracy.get_yticklabels()]
    assert names[0] == "FedAvg" and len(names) == 5
    assert [text.get_text() for text in kept.texts] == ["0.00", "2.33", "2.33", "0.00", "0.00"]
    assert [bar.get_width() for bar in computing.patches][:2] == [1.0, 1.0]
    assert traffic.patches[1].get_width() == 0


def test_histories_are_compared_byte_for_byte(results):
    assert same_histories(results)["same"].tolist() == [True] * 4
    spoiled = results[3]
    assert spoiled.config.settings["downlink"] == "merged" and spoiled.config.seed == 0
    path = spoiled.directory / "history.csv"
    path.write_bytes(path.read_bytes() + b"\n")
    table = same_histories(results).set_index(["title", "seed"])["same"]
    assert not table["FedOBP, server", 0] and table.sum() == 3


def test_runs_of_the_experiment_have_one_history_each_way():
    configs = cloud_edge_runs("smoke", methods=["fedavg", "fedobp"], rounds=2)
    assert [c.settings for c in configs] == [{}, {}, SERVER, SPARSE]
    table = same_histories(run_all(configs, progress=False))
    assert table["same"].tolist() == [True, True]


def test_bytes_on_the_wire_stand_beside_those_counted():
    result = fake_run(runs_dir(), method="fedavg", rounds=2)
    rows = [
        # Of the first round, a test, and the last round's two clients.
        [1, "train", 0, 9, 9, 9, 9, 9, 9],
        [2, "test", 1, 0, 0, 5, 5, 5, 5],
        [2, "train", 0, 100, 200, 100, 230, 110, 253],
        [2, "train", 1, 100, 200, 100, 250, 130, 275],
    ]
    ways = [f"{part}_{way}" for part in ("method", "tensors", "wire") for way in ("down", "up")]
    frame = pd.DataFrame(rows, columns=["round", "purpose", "client", *ways])
    frame.to_csv(result.directory / "traffic.csv", index=False)
    table = wire_table([result]).set_index("way")
    assert table["method"].tolist() == [100, 200] and table["history"].tolist() == [0, 40]
    assert table["wire"].tolist() == [120, 264]
    assert table["around"].tolist() == pytest.approx([20, 10])
    model = 4 * 582026
    assert table["costs"].tolist() == [model, model + 8]  # and how many samples


def test_federations_stand_beside_the_simulations_of_the_same_configurations():
    pair = [fake_run(runs_dir(), 50.0, method="fedper", rounds=2) for _ in range(2)]
    other = fake_run(runs_dir(), 51.0, method="fedper", rounds=2)
    table = beside_simulations([pair[0], other], [pair[1], pair[0]])
    assert table["same"].tolist() == [True, False]
    assert table[["title", "rounds"]].values.tolist() == [["FedPer", 2]] * 2
    with pytest.raises(ValueError, match="another configuration"):
        beside_simulations([pair[0]], [fake_run(runs_dir(), method="fedper", rounds=3)])
