"""FFGG against Algorithms 1 and 4 of its paper, written out for one client at a time."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.literal import (
    COHORTS,
    batches,
    make,
    module_of,
    play,
    row_of,
    same,
    tiny_federation,
)
from helpers.literal import models_before as shown

from fedobp_lib.data.clients import FINE_TUNE, TRAIN
from fedobp_lib.errors import UserError

LOCAL = ("classifier.weight", "classifier.bias")
CHOSEN = {"tolerance": 0.4, "tune_epochs": 5, "server_lr": 0.3}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only lose by a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def full_gradient(federation, model, client, names):
    """Gradient of the mean loss over all of a client's samples, by name."""
    images, labels = federation.data.train(client)
    parameters = [dict(model.named_parameters())[name] for name in names]
    loss = F.cross_entropy(model(images), labels)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def norm(gradient):
    return sum(float((part**2).sum()) for part in gradient.values()) ** 0.5


def sgd(federation, model, names, epochs):
    """Mini-batch SGD on the named parameters, the others fixed."""
    settings = federation.trainer.settings
    parameters = [p for name, p in model.named_parameters() if name in names]
    optimizer = torch.optim.SGD(parameters, settings.lr, settings.momentum)
    for epoch in epochs:
        for x, y in epoch:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


class Literal:
    """Algorithm 1 (`gradient`) and Algorithm 4 (`steps`)."""

    def __init__(self, federation, variant):
        self.federation = federation
        self.variant = variant
        self.server = module_of(federation)
        self.heads = {i: copy.deepcopy(self.server.classifier) for i in range(5)}
        self.bouts = []

    def model_of(self, client):
        model = copy.deepcopy(self.server)
        model.classifier = copy.deepcopy(self.heads[client])
        return model

    def fine_tune(self, model, client, round_):
        """Until the local gradient's norm is 0.4 of its first, or for 5 epochs."""
        first = norm(full_gradient(self.federation, model, client, LOCAL))
        bouts = 0
        for length in (2, 2, 1):  # judged after every two epochs, as a client trains in a round
            now = norm(full_gradient(self.federation, model, client, LOCAL))
            if bouts and now <= 0.4 * first:
                break
            bouts += 1
            turns = batches(self.federation, client, round_, TRAIN + 10 * bouts, epochs=length)
            sgd(self.federation, model, LOCAL, turns)
        self.bouts.append(bouts)

    def round(self, number, cohort):
        body = [name for name, _ in self.server.named_parameters() if name not in LOCAL]
        before, after, gradients = {}, {}, {}
        for client in cohort:
            model = self.model_of(client)
            before[client] = row_of(self.federation, model)
            self.fine_tune(model, client, number)
            if self.variant == "steps":
                sgd(self.federation, model, body, batches(self.federation, client, number))
            else:
                gradients[client] = full_gradient(self.federation, model, client, body)
            self.heads[client] = copy.deepcopy(model.classifier)
            after[client] = model
        with torch.no_grad():
            for name, parameter in self.server.named_parameters():
                if name in LOCAL:
                    continue
                if self.variant == "steps":
                    each = [dict(after[client].named_parameters())[name] for client in cohort]
                    parameter.copy_(sum(each) / len(cohort))
                else:
                    each = [gradients[client][name] for client in cohort]
                    parameter.sub_(0.3 * sum(each) / len(cohort))
        return before, {client: row_of(self.federation, after[client]) for client in cohort}


@pytest.mark.parametrize("variant", ["steps", "gradient"])
def test_ffgg_is_its_papers_algorithm(variant):
    federation = tiny_federation()
    method = make("ffgg", federation, variant=variant, **CHOSEN)
    literal = Literal(federation, variant)
    played = play(method)
    for number, (cohort, (start, trained)) in enumerate(zip(COHORTS, played, strict=True), 1):
        before, after = literal.round(number, cohort)
        for k, client in enumerate(cohort):
            assert same(start[k], before[client])
            assert same(trained[k], after[client])
    assert same(method.global_params, row_of(federation, literal.server))
    for client, head in literal.heads.items():
        expected = torch.cat([head.weight.detach().flatten(), head.bias.detach()])
        assert same(method.state["local"][client], expected)
        assert same(shown(method, [client])[0], row_of(federation, literal.model_of(client)))
    # Some clients stop early and some go on to the end, else this shows little.
    assert {1, 3} <= set(literal.bouts)


@pytest.mark.parametrize("variant", ["steps", "gradient"])
def test_batched_equals_loop(variant):
    methods = [
        make("ffgg", tiny_federation(b), variant=variant, **CHOSEN) for b in ("loop", "batched")
    ]
    loop, batched = (play(method) for method in methods)
    for (_, reference), (_, ours) in zip(loop, batched, strict=True):
        assert same(ours, reference, 1e-4)
    for name, reference in methods[0].state.items():
        assert same(methods[1].state[name], reference, 1e-4)


def test_fine_tuning_moves_the_local_part_alone_until_its_gradient_is_small():
    federation = tiny_federation()
    clients = torch.tensor([0, 1, 2, 4])
    method = make("ffgg", federation, tolerance=0.4, tune_epochs=40)
    method.round = 1
    start, personal = method.start(clients)
    head = federation.layout.layers["classifier"]
    assert personal.nonzero()[:, 0].tolist() == list(range(head.start, head.stop))
    tuned = method.fine_tune(start, clients, TRAIN)
    assert torch.equal(tuned[:, : head.start], start[:, : head.start])
    for k, client in enumerate(clients.tolist()):
        norms = [
            norm(full_gradient(federation, module_of(federation, row), client, LOCAL))
            for row in (start[k], tuned[k])
        ]
        assert norms[1] <= 0.4 * norms[0] * 1.001
    # The local steps then move the rest alone.
    trained = method.train(start, clients)
    assert torch.equal(trained[:, head], tuned[:, head])
    assert (trained[:, : head.start] != tuned[:, : head.start]).any(1).all()
    # A smaller goal takes more steps, and the cap ends them.
    exact, capped = (
        make("ffgg", federation, tolerance=0.0, tune_epochs=epochs) for epochs in (12, 2)
    )
    exact.round = capped.round = 1
    deep, short = (m.fine_tune(start, clients, TRAIN)[:, head] for m in (exact, capped))
    far = (deep - start[:, head]).norm(dim=1)
    assert ((short - start[:, head]).norm(dim=1) < far).all()


def test_the_gradient_variant_steps_once_against_the_mean_gradient():
    federation = tiny_federation()
    one, two = (
        make("ffgg", federation, variant="gradient", server_lr=lr, tune_epochs=2)
        for lr in (0.1, 0.2)
    )
    (start, trained), *_ = play(one, COHORTS[:1])
    play(two, COHORTS[:1])
    head = federation.layout.layers["classifier"]
    assert torch.equal(trained[:, : head.start], start[:, : head.start])
    moves = [method.global_params - federation.initial for method in (one, two)]
    assert same(moves[1], 2 * moves[0], 1e-4) and moves[0].any()
    # Downhill for the models the clients tuned, on the whole.
    lowered = trained.clone()
    lowered[:, : head.start] = (federation.initial + 0.05 * moves[0])[: head.start]
    losses = federation.trainer.losses
    assert losses(lowered, COHORTS[0]).mean() < losses(trained, COHORTS[0]).mean()


@pytest.mark.parametrize("variant", ["steps", "gradient"])
def test_the_local_part_stays_with_its_client(variant):
    federation = tiny_federation()
    method = make("ffgg", federation, variant=variant, tune_epochs=2)
    head = federation.layout.layers["classifier"]
    (_, trained), _ = play(method, COHORTS[:2])
    own = trained[0, head]
    assert torch.equal(method.state["local"][0], own)  # it was out in round 2
    assert torch.equal(shown(method, [0])[0, head], own)
    assert torch.equal(shown(method, [3])[0, head], federation.initial[head])
    assert torch.equal(method.global_params[head], federation.initial[head])
    assert (method.global_params != federation.initial)[: head.start].any()
    # Looking changes nothing, and sees batches of its own.
    saved = {name: tensor.clone() for name, tensor in method.state.items()}
    clients = torch.arange(5)
    start, _ = method.start(clients)
    tries = [method.train(start, clients, purpose) for purpose in (TRAIN, FINE_TUNE)]
    assert not torch.equal(*tries)
    assert all(torch.equal(saved[name], tensor) for name, tensor in method.state.items())


def test_the_local_part_can_be_other_layers():
    federation = tiny_federation()
    method = make("ffgg", federation, local="conv1, classifier", tune_epochs=2)
    play(method, COHORTS[:1])
    _, personal = method.start(torch.tensor([0]))
    layers = federation.layout.layers
    shares = {layer: float(personal[columns].float().mean()) for layer, columns in layers.items()}
    assert shares == {"conv1": 1, "conv2": 0, "fc1": 0, "classifier": 1}
    changed = method.global_params != federation.initial
    assert not changed[layers["conv1"]].any() and changed[layers["conv2"]].any()


def test_the_local_part_can_be_a_tensor():
    federation = tiny_federation()
    method = make("ffgg", federation, local="classifier.bias", tune_epochs=2)
    (start, trained), *_ = play(method, COHORTS[:1])
    bias = federation.layout.spans["classifier.bias"]
    _, personal = method.start(torch.tensor([0]))
    assert personal.nonzero()[:, 0].tolist() == list(range(bias.start, bias.stop))
    tuned = method.fine_tune(start, torch.tensor(COHORTS[0]), TRAIN)
    rest = ~method.local
    assert torch.equal(tuned[:, rest], start[:, rest])
    assert torch.equal(trained[:, bias], tuned[:, bias])
    assert (tuned[:, bias] != start[:, bias]).any(1).all()
    assert torch.equal(method.global_params[bias], federation.initial[bias])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "step"}, "did you mean 'steps'"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"tune_epochs": 0}, "at least one epoch"),
        ({"server_lr": 0.0}, "positive"),
        ({"local": "clasifier"}, "did you mean 'classifier'"),
        ({"local": "classifier.bais"}, "did you mean 'classifier.bias'"),
        ({"local": "conv1,conv2,fc1,classifier"}, "whole model"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        make("ffgg", tiny_federation(), **values)
