"""FedRep against a literal version, and what makes it FedRep."""

import copy

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
from fedobp_lib.methods import METHODS, make_settings


def literal_fedrep(federation, body_epochs=1, sample_weights=False):
    """A head a client; a fresh optimizer for each part, that knows of no other parameters.

    The server of Algorithm 1 divides the sum of the bodies by the number of clients.
    """
    settings = federation.trainer.settings
    server = module_of(federation)
    heads = [copy.deepcopy(server.classifier) for _ in range(federation.data.clients)]
    before = []
    for number, cohort in enumerate(COHORTS, 1):
        uploads = []
        for client in cohort:
            model = copy.deepcopy(server)
            model.classifier = heads[client]
            before.append(row_of(federation, model))
            head = list(model.classifier.parameters())
            body = [p for name, p in model.named_parameters() if "classifier" not in name]
            epochs = list(batches(federation, client, number))
            cut = max(0, len(epochs) - body_epochs)
            for part, some in ((head, epochs[:cut]), (body, epochs[cut:])):
                optimizer = torch.optim.SGD(part, lr=settings.lr, momentum=settings.momentum)
                for epoch in some:
                    for x, y in epoch:
                        optimizer.zero_grad()
                        F.cross_entropy(model(x), y).backward()
                        optimizer.step()
            uploads.append(model)
        shares = weights_of(federation, cohort)
        with torch.no_grad():
            for name, parameter in server.named_parameters():
                if "classifier" not in name:
                    parts = [model.get_parameter(name) for model in uploads]
                    mean = sum(parts) / len(cohort)
                    if sample_weights:
                        mean = sum(s * p for s, p in zip(shares, parts, strict=True))
                    parameter.copy_(mean)
    return torch.stack(before), server, heads


@pytest.mark.parametrize(
    ("epochs", "settings"),
    [
        (2, {}),
        (3, {"body_epochs": 2}),
        (1, {}),
        (2, {"sample_weights": True}),
    ],
)
def test_the_rounds_are_those_of_the_paper(epochs, settings):
    federation = tiny_federation(epochs=epochs)
    method = make("fedrep", federation, **settings)
    rounds = play(method)
    before, server, heads = literal_fedrep(federation, **settings)
    assert same(torch.cat([start for start, _ in rounds]), before)
    cut = federation.layout.layers["classifier"].start
    assert same(method.global_params[:cut], row_of(federation, server)[:cut])
    for client, head in enumerate(heads):
        model = copy.deepcopy(server)
        model.classifier = head
        assert same(models_before(method, [client])[0], row_of(federation, model))
        assert same(models_before(method, [client])[0, cut:], row_of(federation, model)[cut:])


def test_batched_equals_the_loop():
    loop, batched = (make("fedrep", tiny_federation(b)) for b in ("loop", "batched"))
    for one, other in zip(play(batched), play(loop), strict=True):
        assert same(one[0], other[0], 1e-4) and same(one[1], other[1], 1e-4)
    assert all(same(batched.state[name], loop.state[name], 1e-4) for name in loop.state)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_what_is_frozen_keeps_every_bit(backend):
    clients = torch.tensor([0, 2])
    head = tiny_federation().layout.layers["classifier"]
    trained = {}
    for epochs, body_epochs in ((3, 2), (2, 1), (1, 1), (2, 5)):
        method = make("fedrep", tiny_federation(backend, epochs=epochs), body_epochs=body_epochs)
        start, _ = method.start(clients)
        trained[epochs, body_epochs] = method.train(start, clients)
    # The head has one epoch in both, the same; the body's epochs, one or two, leave it alone.
    assert torch.equal(trained[3, 2][:, head], trained[2, 1][:, head])
    assert (trained[3, 2][:, head] != start[:, head]).any(1).all()
    # No epoch is left for the head.
    for only_body in ((1, 1), (2, 5)):
        assert torch.equal(trained[only_body][:, head], start[:, head])
        moved = trained[only_body][:, : head.start] != start[:, : head.start]
        assert moved.any(1).all()


def test_epochs_of_the_head_leave_the_body_alone():
    federation = tiny_federation()
    method = make("fedrep", federation)
    clients = torch.tensor([0, 1])
    start, _ = method.start(clients)
    task = method.task(start, clients)
    assert [task.phase(epoch, 5) for epoch in range(5)] == ["head"] * 4 + ["body"]
    task.phase = lambda epoch, epochs: "head"
    trained = federation.trainer.fit(task, [0, 1], 1)
    head = federation.layout.layers["classifier"]
    assert torch.equal(trained[:, : head.start], start[:, : head.start])
    assert (trained[:, head] != start[:, head]).any(1).all()


def test_heads_stay_and_the_server_never_has_one():
    federation = tiny_federation()
    head = federation.layout.layers["classifier"]
    method = make("fedrep", federation)
    (_, first), (_, second) = play(method, COHORTS[:2])
    assert torch.equal(method.global_params[head], federation.initial[head])
    now = models_before(method, [0, 4, 3])
    assert torch.equal(now[0, head], first[0, head])  # client 0 sat round 2 out
    assert torch.equal(now[1, head], second[2, head])
    assert torch.equal(now[2, head], federation.initial[head])
    assert torch.equal(now[:, : head.start], method.global_params[: head.start].expand(3, -1))
    assert not torch.equal(method.global_params[: head.start], federation.initial[: head.start])
    _, personal = method.start(torch.tensor([0]))
    assert personal[head].all() and not personal[: head.start].any()


@pytest.mark.parametrize("sample_weights", [False, True])
def test_running_statistics_follow_every_epoch_and_are_averaged(sample_weights):
    federation = normalized_federation()
    layout = federation.layout
    buffers = slice(layout.parameters, layout.size)
    method = make("fedrep", federation, sample_weights=sample_weights)
    _, (_, trained) = play(method, COHORTS[:2])
    shares = torch.tensor(weights_of(federation, COHORTS[1]) if sample_weights else [1 / 3] * 3)
    assert same(method.global_params[buffers], shares @ trained[:, buffers])
    clients = torch.tensor([1])
    start, _ = method.start(clients)
    assert torch.equal(start[0, buffers], method.global_params[buffers])
    task = method.task(start, clients)
    task.phase = lambda epoch, epochs: "head"
    of_head = federation.trainer.fit(task, [1], 1)
    body = slice(0, layout.layers["classifier"].start)
    assert torch.equal(of_head[:, body], start[:, body])
    assert not torch.equal(of_head[:, buffers], start[:, buffers])


def test_settings_are_checked():
    for value in (0, -1):
        with pytest.raises(UserError, match="body_epochs must be at least 1"):
            make_settings(METHODS["fedrep"], {"body_epochs": value})
    with pytest.raises(UserError, match="type int"):
        make_settings(METHODS["fedrep"], {"body_epochs": "some"})
