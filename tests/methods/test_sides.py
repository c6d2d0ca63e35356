"""A method's two sides apart: a server and clients that share nothing but what they send."""

import pytest
import torch
from helpers.literal import CLIENTS, COHORTS, make, play, tiny_federation

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.methods import METHODS, Method, make_settings, scores_on_server

SPLIT = [name for name, method in METHODS.items() if method.finish is Method.finish]
SERVER = [
    {"scoring": "server", "downlink": downlink, **more}
    for downlink in ("merged", "sparse")
    for more in ({}, {"score": "gradient"}, {"ema": 0.5, "normalization": "global"})
]


def apart(name, settings):
    """The rows that clients begin with, round by round, and the server's last model."""
    server = make(name, tiny_federation(), **settings)
    clients = [make(name, tiny_federation(), **settings) for _ in range(CLIENTS)]
    on_server = scores_on_server(server)
    for client in clients:  # knows of the server's model what it is sent
        client.global_params[:] = torch.nan
        client.global_params[client.travels] = server.global_params[client.travels]
    starts = []
    for number, cohort in enumerate(COHORTS, 1):
        numbers, uploaded, began = torch.tensor(cohort), [], []
        server.round = number
        sent = server.start(numbers)[0] if on_server else None
        for place, client in enumerate(cohort):
            there, one = clients[client], torch.tensor([client])
            there.round = number
            if on_server:
                start = sent[place, None].clone()
                there.state.clear()  # it keeps nothing
            else:
                there.global_params[there.travels] = server.global_params[server.travels]
                start, _ = there.start(one)
            start = start.clone()
            trained = there.train(start, one)
            uploaded.append(there.upload(one, start, trained))
            if not on_server:
                there.keep(one, start, trained)
            began.append(start)
        if on_server:
            server.keep(numbers, sent, torch.cat(uploaded))
        server.aggregate(numbers, torch.cat(uploaded))
        starts.append(torch.cat(began))
    return starts, server.global_params[server.travels]


@pytest.mark.parametrize(
    ("name", "settings"), [(name, {}) for name in SPLIT] + [("fedobp", s) for s in SERVER]
)
def test_apart_they_compute_what_they_compute_together(name, settings):
    method = make(name, tiny_federation(), **settings)
    rounds = play(method)
    starts, model = apart(name, settings)
    # APFL sums up a row, which one row alone does in another order.
    most = 1e-6 if name == "apfl" else 0.0
    for (start, _), alone in zip(rounds, starts, strict=True):
        torch.testing.assert_close(start, alone, rtol=most, atol=most)
    torch.testing.assert_close(method.global_params[method.travels], model, rtol=most, atol=most)


@pytest.mark.parametrize("backend", ["loop", "batched"])
@pytest.mark.parametrize("settings", SERVER)
def test_a_scoring_server_changes_no_bit(backend, settings):
    on_clients = {k: v for k, v in settings.items() if k not in ("scoring", "downlink")}
    ours, theirs = (
        play(make("fedobp", tiny_federation(backend), **chosen))
        for chosen in (settings, on_clients)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scoring": "server", "score": "fisher"}, "need the clients' data"),
        ({"downlink": "sparse"}, "set scoring=server"),
        ({"scoring": "cloud"}, "unknown side that scores 'cloud'"),
        ({"scoring": "server", "downlink": "spars"}, "did you mean 'sparse'"),
    ],
)
def test_what_cannot_be_is_refused(settings, reason):
    with pytest.raises(UserError, match=reason):
        make_settings(METHODS["fedobp"], settings)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_histories_are_the_same_byte_for_byte(backend):
    size = {"clients": 6, "participation": 0.5, "rounds": 3, "local_epochs": 1}
    here, there = (
        run(RunConfig(**size, settings={"quantile": 0.9} | settings), backend=backend)
        for settings in ({}, {"scoring": "server", "downlink": "sparse"})
    )
    assert here.run_id != there.run_id
    for name in ("history.csv", "layers.csv", "clients.csv"):
        assert (here.directory / name).read_bytes() == (there.directory / name).read_bytes()
