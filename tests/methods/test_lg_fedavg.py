"""LG-FedAvg against a literal version, and what makes it LG-FedAvg."""

import copy

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


def literal_lg_fedavg(federation):
    """A module a client; the server holds a linear classifier and nothing else."""
    settings = federation.trainer.settings
    clients = [module_of(federation) for _ in range(federation.data.clients)]
    server = copy.deepcopy(clients[0].classifier)
    before = []
    for number, cohort in enumerate(COHORTS, 1):
        for client in cohort:
            model = clients[client]
            model.classifier.load_state_dict(server.state_dict())
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
        with torch.no_grad():
            for name, parameter in server.named_parameters():
                parts = [clients[c].classifier.get_parameter(name) for c in cohort]
                parameter.copy_(sum(s * p for s, p in zip(shares, parts, strict=True)))
    return torch.stack(before), server, torch.stack([row_of(federation, m) for m in clients])


def classifier(federation, row):
    """Columns of the classifier's weight and bias, found by their names."""
    views = federation.layout.views(row)
    return torch.cat([views[f"classifier.{part}"].flatten(-2 + (part == "bias"))
                      for part in ("weight", "bias")], -1)  # fmt: skip


def test_the_rounds_are_those_of_the_paper():
    federation = tiny_federation()
    method = make("lg-fedavg", federation)
    rounds = play(method)
    before, server, own = literal_lg_fedavg(federation)
    assert same(torch.cat([start for start, _ in rounds]), before)
    expected = torch.cat([server.weight.detach().flatten(), server.bias.detach()])
    assert same(classifier(federation, method.global_params), expected)
    cut = federation.layout.layers["classifier"].start
    assert same(method.state["local"][:, :cut], own[:, :cut])
    # Clients 0 and 2 last started from another classifier than client 4; all now get the same.
    assert same(classifier(federation, models_before(method, [0, 2, 3, 4])), expected.repeat(4, 1))


def test_batched_equals_the_loop():
    loop, batched = (make("lg-fedavg", tiny_federation(b)) for b in ("loop", "batched"))
    for one, other in zip(play(batched), play(loop), strict=True):
        assert same(one[0], other[0], 1e-4) and same(one[1], other[1], 1e-4)
    assert all(same(batched.state[name], loop.state[name], 1e-4) for name in loop.state)


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


def test_running_statistics_are_local():
    federation = normalized_federation()
    layout = federation.layout
    method = make("lg-fedavg", federation)
    rounds = play(method)
    buffers = slice(layout.parameters, layout.size)
    assert torch.equal(models_before(method, [4])[0, buffers], rounds[1][1][2, buffers])
    assert torch.equal(method.global_params[buffers], federation.initial[buffers])
    assert not same(models_before(method, [4])[0, buffers], federation.initial[buffers], 1e-2)
