"""What a federation sends, beside what `fedobp costs` says of its method."""

import pytest
from helpers.direct_link import COHORT, Direct, clients_of, server_of, tiny_config

from fedobp_lib.results.costs import costs

PERSONAL, CORRECT, LOSS = 8, 2 * 8, 2 * 8  # bytes: of each layer, of two tests, of two tests
SPARSE = {"scoring": "server", "downlink": "sparse", "quantile": 0.99}


def as_costs_say(config):
    """Bytes (down, up) of a client's n-th round, from 1."""
    frame = costs([config], rounds=config.rounds)
    frame = frame[(frame["side"] == "client") & (frame["quantity"] == "bytes")]
    table = frame.pivot(index="round", columns="part", values="value")
    return {n: (row["down"], row["up"]) for n, row in table.iterrows()}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fedavg", {}),
        ("fedper", {}),
        ("fedobp", {}),
        ("fedobp", {"scoring": "server"}),
        ("fedobp", SPARSE),
    ],
)
def test_what_is_sent_for_training_is_what_costs_count(method, settings, tmp_path):
    config = tiny_config(method, **settings)
    link = Direct(clients_of(config, tmp_path / "own"))
    server = server_of(config, link)
    server.begin()
    server.run(progress=False)
    expected, times = as_costs_say(config), {}
    rows = server.tally.frame()
    trained = rows[rows["purpose"] == "train"]
    assert len(trained) == config.rounds * COHORT
    # For the history alone: tests, and where the server does not know it, what is personal.
    layers = 0 if "scoring" in settings else len(server.layout.layers)
    history = CORRECT + LOSS + PERSONAL * layers
    for row in trained.itertuples():
        # Who first comes later finds a server's model that has moved, as else in the second round.
        times[row.client] = nth = times.get(row.client, int(row.round > 1)) + 1
        down, up = expected[nth]
        sent, received = link.sent[row.round, row.client]
        assert (row.tensors_down, row.tensors_up) == (sent, received)
        # Of few personal parameters, ties make a few more or fewer than the quantile says.
        assert row.method_down == row.tensors_down == pytest.approx(down, rel=0.01)
        assert row.method_up == row.tensors_up - history == up
    others = rows[rows["purpose"] != "train"]
    assert len(others) and not others[["method_down", "method_up"]].to_numpy().any()


def test_the_classifier_of_fedper_is_nowhere_in_what_is_sent(tmp_path):
    config = tiny_config("fedper")
    link = Direct(clients_of(config, tmp_path / "own"))
    server = server_of(config, link)
    server.begin()
    server.run(progress=False)
    head = server.layout.layers["classifier"]
    shared = server.layout.size - (head.stop - head.start)
    assert {len(model) for model in link.uploads.values()} == {shared}
    rows = server.tally.frame()
    assert rows.loc[rows["purpose"] != "begin", "tensors_down"].unique().tolist() == [4 * shared]
