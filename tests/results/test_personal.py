"""What the personal parameters are, against masks that are counted one by one."""

import pandas as pd
import pytest
import torch
from helpers.direct_link import tiny_config

from fedobp_lib import figures
from fedobp_lib.data.clients import sample_cohort
from fedobp_lib.results import personal
from fedobp_lib.runs.store import load_data
from fedobp_lib.simulation import simulate


def made(**settings):
    config = tiny_config("fedobp", **settings)
    return config, simulate(config, load_data("tiny"))


def test_looking_changes_no_round():
    _, watched = made(quantile=0.99)
    _, plain = made(quantile=0.99)
    plain.run(progress=False)
    personal.watch(watched)
    pd.testing.assert_frame_equal(watched.history_frame(), plain.history_frame())
    pd.testing.assert_frame_equal(watched.layers_frame(), plain.layers_frame())


def test_stability_and_places_by_sets_of_columns():
    config, watched = made(quantile=0.99)
    seen = personal.watch(watched)
    _, slow = made(quantile=0.99)
    before, expected = {}, []
    for number in range(1, config.rounds + 1):
        cohort = sample_cohort(0, number, 5, 3).tolist()
        slow.method.round = number
        for client in cohort:
            if client in before:  # it has trained
                mask = slow.method.start(torch.tensor([client]))[1][0]
                now = set(mask.nonzero()[:, 0].tolist())
                if before[client]:
                    both, either = now & before[client], now | before[client]
                    expected.append([number, client, len(both) / len(either)])
                before[client] = now
            before.setdefault(client, set())
        slow.step()
    frame = pd.DataFrame(expected, columns=["round", "client", "jaccard"])
    pd.testing.assert_frame_equal(seen.stability, frame)
    assert 0 < frame["jaccard"].mean() < 1

    layout = slow.layout
    masks = slow.method.start(torch.tensor(sorted(before)))[1]
    for row in seen.tensors.itertuples():
        columns = layout.spans[f"{row.layer}.{row.kind}"]
        assert row.personal == pytest.approx(masks[:, columns].sum().item() / len(masks))
        assert row.parameters == columns.stop - columns.start
    assert seen.tensors["share"].sum() == pytest.approx(100)
    weight, bias = (layout.spans[f"classifier.{kind}"] for kind in ("weight", "bias"))
    for client, mask in zip(sorted(before), masks, strict=True):
        rows = mask[weight].view(3, 512).sum(1) + mask[bias]
        own = seen.classes.query("client == @client")
        assert own["personal"].tolist() == rows.tolist()
        labels = slow.data.labels_of(client)
        shares = [100 * (labels == c).float().mean().item() for c in range(3)]
        assert own["samples"].tolist() == pytest.approx(shares, rel=1e-5)


def test_rows_of_classes_that_a_client_has():
    columns = ["dataset", "alpha", "client", "class", "samples", "personal"]
    rows = [
        ["mnist", 0.1, 7, c, s, p] for c, s, p in ((0, 60, 3), (1, 40, 0), (2, 0, 6), (3, 0, 0))
    ]
    rows += [["mnist", 0.1, 8, c, 25, 0] for c in range(4)]  # nothing of it is personal
    frame = personal.follow_classes(pd.DataFrame(rows, columns=columns))
    assert frame.values.tolist() == [["mnist", 0.1, 7, 50.0, pytest.approx(100 / 3), 9]]


@pytest.mark.parametrize("settings", [{"quantile": 0.99}, {"quantile": 1.0}])
def test_the_first_run_of_each_cell_is_watched_and_drawn(settings):
    """Also where nothing is personal."""
    configs = [tiny_config("fedobp", **settings) for _ in range(2)]
    seen = personal.watch_runs(configs)
    table = personal.summary(seen)
    assert (len(table) == 1 and table["personal"].iloc[0] > 0) or settings["quantile"] == 1.0
    if settings["quantile"] < 1:  # of five rounds hardly a client would have been seen twice
        assert seen.stability["round"].max() == personal.LEAST
    assert list(seen.classes)[:2] == ["dataset", "alpha"]
    assert len(figures.plot_personal(seen).axes) == 3
