"""What the first notebook shows of a client, against the simulation's own results and numpy."""

import numpy as np
import pytest
import torch
from helpers.literal import tiny_images
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from fedobp_lib import figures
from fedobp_lib.config import RunConfig
from fedobp_lib.errors import UserError
from fedobp_lib.results import inspection
from fedobp_lib.simulation import simulate

Q = 0.99


@pytest.fixture(scope="module")
def simulation():
    config = RunConfig(
        clients=5, participation=0.6, rounds=3, local_epochs=2, batch_size=8, min_samples=4,
        lr=0.05, settings={"quantile": Q},
    )  # fmt: skip
    simulation = simulate(config, tiny_images(), backend="loop")
    simulation.run(progress=False)
    return simulation


@pytest.fixture(scope="module")
def client(simulation):
    """The one whose local training changes its accuracy most."""
    tested = simulation.clients_frame()
    return int((tested["accuracy_after"] - tested["accuracy_before"]).abs().idxmax())


def test_the_workflow_tells_a_clients_own_numbers(simulation, client):
    state = {name: tensor.clone() for name, tensor in simulation.method.state.items()}
    frame = inspection.workflow_frame(simulation, client)
    assert all(torch.equal(simulation.method.state[name], kept) for name, kept in state.items())
    value = frame.set_index(["step", "quantity"])["value"]
    assert value.index.is_unique

    scores = (state["local"][client] - state["global"]).numpy() ** 2
    tau = np.quantile(scores, Q)
    assert value["threshold", "tau"] == pytest.approx(tau, rel=1e-4)
    assert value["decouple", "personal"] == (scores > tau).sum() > 0
    assert value["decouple", "global"] == (scores <= tau).sum()
    assert value["score", "largest"] == pytest.approx(scores.max())
    by_layer = value["decouple"].filter(like="personal in ")
    assert by_layer.sum() == value["decouple", "personal"]
    assert by_layer["personal in classifier"] == (scores[-3 * 513 :] > tau).sum()

    tested = simulation.clients_frame().loc[client]
    assert value["merge", "accuracy before"] == pytest.approx(tested["accuracy_before"])
    assert value["train", "accuracy after"] == pytest.approx(tested["accuracy_after"])
    assert tested["accuracy_before"] != tested["accuracy_after"]
    assert value["train", "samples"] == tested["train_samples"]
    assert value["average", "clients"] == 3 and value["send", "round"] == 4
    assert value["send", "parameters"] == value["upload", "numbers"] == len(scores)


@pytest.mark.parametrize("large", [False, True])
def test_the_workflow_is_drawn_without_overlaps(simulation, client, large):
    """Every text lies in its box and touches no other, also with a ResNet's numbers."""
    frame = inspection.workflow_frame(simulation, client)
    if large:
        wide = {"parameters": 11181642, "numbers": 11191242, "global": 11181100, "samples": 12345}
        frame["value"] = [wide.get(r.quantity, r.value) for r in frame.itertuples()]
        frame.loc[len(frame)] = ["decouple", "personal in layer4", 1234567]
    figure = figures.plot_workflow(frame)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    extents = {t: Text.get_window_extent(t) for t in axis.texts if t.get_text()}
    boxes = [p.get_window_extent() for p in axis.patches if isinstance(p, FancyBboxPatch)]
    assert len(boxes) == 8  # five steps and two of the server, in a client's frame
    for text, extent in extents.items():
        holders = [b for b in boxes if b.overlaps(extent)]
        for box in holders:
            assert box.x0 <= extent.x0 and extent.x1 <= box.x1, text.get_text()
            assert box.y0 <= extent.y0 and extent.y1 <= box.y1, text.get_text()
        hit = [t.get_text() for t, e in extents.items() if t is not text and e.overlaps(extent)]
        assert not hit, (text.get_text(), hit)
    drawn = " ".join(t.get_text() for t in extents)
    value = frame.set_index(["step", "quantity"])["value"]
    for step, quantity in (
        ("decouple", "personal"),
        ("decouple", "global"),
        ("send", "parameters"),
    ):
        assert f"{value[step, quantity]:,.0f}" in drawn
    for step, quantity in (("merge", "accuracy before"), ("train", "accuracy after")):
        assert f"{value[step, quantity]:.1f} %" in drawn


def test_models_compared_are_those_of_the_simulation(simulation, client):
    table = inspection.compare_models(simulation, client)
    merged = table.iloc[1]
    tested = simulation.clients_frame().loc[client]
    assert merged[f"client {client}"] == pytest.approx(tested["accuracy_before"], abs=0.01)
    pooled = simulation.final["before"].summary()["pooled"][0]
    assert merged["all, pooled"] == pytest.approx(pooled, abs=0.01)
    curve = inspection.quantile_curve(simulation, client, [0.0, Q, 1.0]).set_index("quantile")
    assert curve.loc[Q, "accuracy"] == pytest.approx(pooled)
    assert curve.loc[1.0, "accuracy"] == pytest.approx(table.iloc[0]["all, pooled"], abs=0.01)
    assert curve.loc[1.0, "personal"] == 0 < curve.loc[Q, "personal"] < curve.loc[0, "personal"]


@pytest.mark.parametrize(
    "settings",
    [
        {"score": "saliency", "normalization": "global", "ema": 0.5},
        {"score": "saliency", "normalization": "layer"},
        {"merge": "soft"},
        {"classifier_only": True},
        {"score": "random"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_scores_are_the_ones_shown(settings):
    """Whatever FedOBP chooses by: the next round's own models, thresholds and counts."""
    config = RunConfig(
        clients=4, participation=0.5, rounds=3, local_epochs=1, batch_size=8, min_samples=4,
        lr=0.05, settings={"quantile": Q} | settings,
    )  # fmt: skip
    simulation = simulate(config, tiny_images(), backend="loop")
    simulation.run(progress=False)
    everyone = torch.arange(4)
    expected, personal = simulation.method.start(everyone)
    assert personal.any()
    assert torch.equal(inspection.merged_models(simulation, Q, everyone), expected)
    client = int(personal.sum(1).argmax())
    value = inspection.workflow_frame(simulation, client).set_index(["step", "quantity"])["value"]
    assert value["decouple", "personal"] == personal[client].sum()
    assert value["threshold", "tau"] < value["score", "largest"]
    curve = inspection.quantile_curve(simulation, client, [Q])
    assert curve["personal"].item() == personal[client].sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"settings": {"select": "knee"}}, "not knee"), ({"method": "fedavg"}, "not FedAvg")],
)
def test_what_has_no_quantile_is_named(changes, message):
    config = RunConfig(
        clients=2, participation=1, rounds=1, local_epochs=1, min_samples=4, **changes
    )
    simulation = simulate(config, tiny_images(), backend="loop")
    with pytest.raises(UserError, match=message):
        inspection.workflow_frame(simulation, 0)


def test_all_clients_are_tested_a_cohort_at_a_time(simulation, client, monkeypatch):
    """A hundred large models at once would not fit into a GPU's memory."""
    expected = inspection.compare_models(simulation, client)
    curve = inspection.quantile_curve(simulation, client, [Q])
    sizes = []
    test = simulation.trainer.backend.test

    def spy(asked):
        sizes.append(sum(len(question.rows) for question in asked))
        return test(asked)

    monkeypatch.setattr(simulation.trainer.backend, "test", spy)
    monkeypatch.setattr(inspection, "GROUP", 2)
    assert inspection.compare_models(simulation, client).equals(expected)
    assert inspection.quantile_curve(simulation, client, [Q]).equals(curve)
    assert sizes == 4 * [2, 2, 1]


def test_layers_without_a_personal_parameter(simulation):
    nothing = torch.zeros(simulation.layout.parameters, dtype=torch.bool)
    table = inspection.personal_by_layer(simulation.layout, nothing)
    assert table["personal"].sum() == 0 and table["share of all personal, %"].isna().all()
    nothing[simulation.layout.layers["fc1"]] = True
    table = inspection.personal_by_layer(simulation.layout, nothing).set_index("layer")
    assert table.loc["fc1", "personal"] == table.loc["fc1", "parameters"]
    assert table["share of all personal, %"].to_dict() == {
        "conv1": 0, "conv2": 0, "fc1": 100, "classifier": 0,
    }  # fmt: skip
