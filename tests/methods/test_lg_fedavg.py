"""LG-FedAvg against a literal version, and what makes it LG-FedAvg."""

import pytest
import torch
import torch.nn.functional as F
from helpers.batchnorm import normalized_federation
from helpers.literal import (
    COHORTS,
    batches,
    make,
    models_before,
    module_of,
    play,
    row_of,
    same,
    tiny_federation,
    weights_of,
)

from fedobp_lib.errors import UserError


def literal_lg_fedavg(federation, layers):
    """A module a client; the server holds copies of the global layers and nothing else."""
    settings = federation.trainer.settings
    clients = [module_of(federation) for _ in range(federation.data.clients)]
    server = {name: copy_of(getattr(clients[0], name)) for name in layers}
    before = []
    for number, cohort in enumerate(COHORTS, 1):
        for client in cohort:
            model = clients[client]
            for name, values in server.items():
                getattr(model, name).load_state_dict(values)
            before.append(row_of(federation, model))
            optimizer = torch.optim.SGD(
                model.parameters(), lr=settings.lr, momentum=settings.momentum
            )
            for epoch in batches(federation, client, number):
                for x, y in epoch:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
        shares = weights_of(federation, cohort)
        for name, values in server.items():
            for part in values:
                uploads = [getattr(clients[c], name).state_dict()[part] for c in cohort]
                values[part] = sum(s * u for s, u in zip(shares, uploads, strict=True))
    return torch.stack(before), server, clients


def copy_of(layer):
    """Its tensors by name, apart from the layer."""
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


SETUPS = [
    ({}, ["classifier"]),
    ({"global_layers": "conv1, conv2"}, ["conv1", "conv2"]),
    ({"global_layers": "fc1,conv1"}, ["conv1", "fc1"]),
]


@pytest.mark.parametrize(("settings", "layers"), SETUPS)
def test_the_rounds_are_those_of_the_paper(settings, layers):
    federation = tiny_federation()
    method = make("lg-fedavg", federation, **settings)
    rounds = play(method)
    before, server, clients = literal_lg_fedavg(federation, layers)
    assert same(torch.cat([start for start, _ in rounds]), before)
    for client, model in enumerate(clients):
        # Client 3 never trained, 4 and 0 sat rounds out; all get the same global layers now.
        for name, values in server.items():
            getattr(model, name).load_state_dict(values)
        ours = models_before(method, [client])[0]
        assert same(ours, row_of(federation, model))
        assert same(ours[federation.layout.layers["classifier"]],
                    row_of(federation, model)[federation.layout.layers["classifier"]])  # fmt: skip
    _, personal = method.start(torch.tensor([0]))
    for name, columns in federation.layout.layers.items():
        assert personal[columns].all() if name not in layers else not personal[columns].any()
        if name not in layers:  # the server never has one
            assert torch.equal(method.global_params[columns], federation.initial[columns])


@pytest.mark.parametrize("layers", ["classifier", "conv1,conv2"])
def test_batched_equals_the_loop(layers):
    loop, batched = (
        make("lg-fedavg", tiny_federation(b), global_layers=layers) for b in ("loop", "batched")
    )
    for one, other in zip(play(batched), play(loop), strict=True):
        assert same(one[0], other[0], 1e-4) and same(one[1], other[1], 1e-4)
    assert all(same(batched.state[name], loop.state[name], 1e-4) for name in loop.state)


def test_all_layers_global_is_fedavg():
    federation = tiny_federation()
    method = make("lg-fedavg", federation, global_layers="conv1,conv2,fc1,classifier")
    fedavg = make("fedavg", federation)
    play(method)
    play(fedavg)
    assert same(method.global_params, fedavg.global_params, 1e-6)
    assert same(models_before(method, [0, 3]), models_before(fedavg, [0, 3]), 1e-6)


def test_representations_stay_and_the_server_never_has_one():
    federation = tiny_federation()
    method = make("lg-fedavg", federation)
    (_, first), (_, second), _ = play(method)[:3]
    cut = federation.layout.layers["classifier"].start
    assert torch.equal(method.global_params[:cut], federation.initial[:cut])
    _, personal = method.start(torch.tensor([0, 4]))
    assert personal[:cut].all() and not personal[cut:].any()
    # Client 4 took part in round 2 alone, client 3 never; client 0 sat that round out.
    now = models_before(method, [4, 3])
    assert torch.equal(now[0, :cut], second[2, :cut])
    assert torch.equal(now[1, :cut], federation.initial[:cut])
    method = make("lg-fedavg", federation)
    (_, first), _ = play(method, COHORTS[:2])
    assert torch.equal(models_before(method, [0])[0, :cut], first[0, :cut])


def test_both_parts_train_together():
    federation = tiny_federation(epochs=1)
    method = make("lg-fedavg", federation)
    ((start, trained),) = play(method, COHORTS[:1])
    for columns in federation.layout.layers.values():
        assert (start[:, columns] != trained[:, columns]).any(1).all()


def test_looking_at_a_client_changes_nothing():
    method = make("lg-fedavg", tiny_federation())
    play(method)
    state = {name: tensor.clone() for name, tensor in method.state.items()}
    clients = torch.arange(5)
    method.train(method.start(clients)[0].add_(0), clients)
    method.start(clients)[0].zero_()
    assert all(torch.equal(state[name], method.state[name]) for name in state)


@pytest.mark.parametrize("layers", ["classifier", "conv,norm"])
def test_running_statistics_are_local(layers):
    federation = normalized_federation()
    layout = federation.layout
    method = make("lg-fedavg", federation, global_layers=layers)
    rounds = play(method)
    buffers = slice(layout.parameters, layout.size)
    assert torch.equal(models_before(method, [4])[0, buffers], rounds[1][1][2, buffers])
    assert torch.equal(method.global_params[buffers], federation.initial[buffers])
    assert not same(models_before(method, [4])[0, buffers], federation.initial[buffers], 1e-2)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("", "separated by commas, got ''"),
        ("conv1,,fc1", "separated by commas"),
        ("conv1, conv1", "twice"),
        ("conv1,classifer", "unknown layer 'classifer'; did you mean 'classifier'"),
    ],
)
def test_global_layers_are_checked(layers, message):
    with pytest.raises(UserError, match=message):
        make("lg-fedavg", tiny_federation(), global_layers=layers)
