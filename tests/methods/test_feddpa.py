"""FedDPA against a literal version, and what makes it FedDPA."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.literal import (
    CLIENTS,
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

from fedobp_lib.data.clients import FINE_TUNE
from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS, make_settings

# Stronger constraints than the defaults, which hardly show in three rounds. Where a distance comes
# to lie on the bound, or at zero, rounding decides the direction of a whole step: so the bound is
# far beyond all distances or below them, and no pull is stronger than the loss.
STRONG = {"lambda_1": 0.3, "lambda_2": 0.3, "bound": 50.0}
BELOW = {"bound": 0.01}


@pytest.fixture(scope="module")
def federation():
    return tiny_federation()


def literal_fisher(federation, model, client):
    """A tensor for each parameter: mean squared gradient of single samples, scaled to [0, 1]."""
    images, labels = federation.data.train(client)
    sums = [torch.zeros_like(p) for p in model.parameters()]
    model.eval()
    for image, label in zip(images.contiguous(), labels, strict=True):
        log_probability = F.log_softmax(model(image[None]), dim=1)[0, label]
        gradients = torch.autograd.grad(log_probability, list(model.parameters()))
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient**2 / len(labels)
    return [(s - s.min()) / (s.max() - s.min()) for s in sums]


def literal_constraint(phase, model, begun, server, personal, settings):
    """Eq. 9 for the personal parameters, Eq. 11 for the shared ones."""
    if settings["constraints"] == "code":
        distance = sum(
            torch.norm(p - g.detach())
            for p, g in zip(model.parameters(), server.parameters(), strict=True)
        )
    else:
        distance = 0
        for p, old, mask in zip(model.parameters(), begun, personal, strict=True):
            own = mask if phase == "personal" else ~mask
            if own.any():
                distance = distance + torch.norm(p[own] - old[own])
    if phase == "personal":
        return settings["lambda_1"] / 2 * distance
    return settings["lambda_2"] / 2 * (distance - settings["bound"]).abs()


def literal_round(federation, client, number, local, server, settings):
    """One client's round: its model before and after training, as modules."""
    personal = []
    for values in literal_fisher(federation, local, client):
        tau = settings["threshold"]
        if settings["rule"] == "quantile":
            tau = float(np.quantile(values.numpy(), tau))
        personal.append(values > tau)
    model = module_of(federation)
    with torch.no_grad():
        for new, own, common, mask in zip(
            model.parameters(), local.parameters(), server.parameters(), personal, strict=True
        ):
            new.copy_(torch.where(mask, own, common))
    before = row_of(federation, model)

    # Its own personal parameters of before the round, and the server's shared ones.
    begun = [
        torch.where(mask, own, common).detach()
        for own, common, mask in zip(local.parameters(), server.parameters(), personal, strict=True)
    ]
    model.train()
    ours = federation.trainer.settings
    halves = {"all": list(batches(federation, client, number))}
    if not settings["benchmark"]:
        epochs = list(batches(federation, client, number, epochs=2 * ours.epochs))
        halves = {"personal": epochs[: ours.epochs], "shared": epochs[ours.epochs :]}
    for phase, half in halves.items():
        optimizer = torch.optim.SGD(model.parameters(), lr=ours.lr, momentum=ours.momentum)
        for epoch in half:
            for images, labels in epoch:
                loss = F.cross_entropy(model(images), labels)
                if phase != "all":
                    loss = loss + literal_constraint(
                        phase, model, begun, server, personal, settings
                    )
                optimizer.zero_grad()
                loss.backward()
                if phase != "all":
                    for parameter, mask in zip(model.parameters(), personal, strict=True):
                        parameter.grad *= mask if phase == "personal" else ~mask
                optimizer.step()
    return before, model


# At a high quantile neighbours are further apart than rounding can move them.
@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": 0.02},
        {"threshold": 0.02, **BELOW},
        {"threshold": 0.02, "constraints": "code"},
        {"threshold": 0.02, "constraints": "code", **BELOW},
        {"threshold": 0.99, "rule": "quantile"},
        {"threshold": 0.9, "benchmark": True},
    ],
)
def test_it_is_the_literal_algorithm(federation, changes):
    method = make("feddpa", federation, **STRONG | changes)
    rounds = play(method)
    settings = {"rule": "value", "constraints": "paper", "benchmark": False} | STRONG | changes
    if settings["benchmark"]:
        settings["rule"] = "quantile"

    server = module_of(federation)
    locals_ = {client: module_of(federation) for client in range(CLIENTS)}
    for number, cohort in enumerate(COHORTS, 1):
        results = {}
        for k, client in enumerate(cohort):
            before, model = literal_round(
                federation, client, number, locals_[client], server, settings
            )
            assert same(method.models(rounds[number - 1][0], None)[k], before)
            results[client] = model
        new = module_of(federation)
        with torch.no_grad():
            for parameter in new.parameters():
                parameter.zero_()
            shares = [1 / len(cohort)] * len(cohort)  # Algorithm 1: a plain mean
            if settings["benchmark"]:
                shares = weights_of(federation, cohort)
            for client, share in zip(cohort, shares, strict=True):
                for total, old, mine in zip(
                    new.parameters(),
                    server.parameters(),
                    results[client].parameters(),
                    strict=True,
                ):
                    total += share * (mine - old)
            for total, old in zip(new.parameters(), server.parameters(), strict=True):
                total += old
        locals_ |= results
        server = new

    initial = federation.initial
    # Of the updates, which are small beside the models, rounding is a larger part.
    assert same(method.global_params - initial, row_of(federation, server) - initial, 1e-4)
    for client, model in locals_.items():
        own = row_of(federation, model)
        assert same(method.state["local"][client], own)
        assert same(method.state["local"][client] - initial, own - initial, 1e-4)
    expected = [
        literal_round(federation, client, 4, locals_[client], server, settings)[0]
        for client in range(CLIENTS)
    ]
    assert same(models_before(method, list(range(CLIENTS))), torch.stack(expected))


@pytest.mark.parametrize("changes", [{}, {"constraints": "code"}, {"benchmark": True}])
def test_batched_equals_the_loop(federation, changes):
    ours = make("feddpa", tiny_federation("batched"), **STRONG | changes)
    loop = make("feddpa", federation, **STRONG | changes)
    play(ours)
    play(loop)
    assert ours.state.keys() == loop.state.keys()
    for name, tensor in loop.state.items():
        assert same(ours.state[name], tensor, 1e-4)


def test_personal_parameters_come_from_the_client_and_all_others_from_the_server(federation):
    method = make("feddpa", federation, threshold=0.02)
    play(method)
    clients = torch.tensor([0, 3, 4])
    rows, personal = method.start(clients)
    model, local = method.models(rows, clients), method.state["local"][clients]
    for columns in federation.layout.spans.values():
        # Within every tensor one value is scaled to one and one to zero.
        assert personal[:, columns].any(1).all() and not personal[:, columns].all(1).any()
    assert torch.equal(model[personal], local[personal])
    assert torch.equal(model[~personal], method.global_params.expand_as(model)[~personal])
    assert torch.equal(local[1], federation.initial)  # client 3 was never selected
    assert not torch.equal(model[0], method.global_params)


def test_the_fisher_information_is_that_of_the_clients_own_model_and_data(federation):
    method = make("feddpa", federation)
    play(method)
    _, personal = method.start(torch.tensor([2, 0]))
    for mask, client in zip(personal, [2, 0], strict=True):
        own = module_of(federation, method.state["local"][client])
        values = federation.layout.join(literal_fisher(federation, own, client))
        assert torch.equal(mask, values > 0.4)
        for other in (module_of(federation, method.global_params), module_of(federation)):
            strange = federation.layout.join(literal_fisher(federation, other, client))
            assert not torch.equal(mask, strange > 0.4)


def test_the_quantile_rule_takes_a_share_of_every_tensor(federation):
    method = make("feddpa", federation, rule="quantile", threshold=0.75)
    _, personal = method.start(torch.tensor([0]))
    conv2 = federation.layout.spans["conv2.weight"]
    assert personal[0, conv2].float().mean() == pytest.approx(0.25, abs=0.001)
    by_value = make("feddpa", federation, threshold=0.75).start(torch.tensor([0]))[1]
    assert by_value[0, conv2].float().mean() < 0.01


def test_first_the_personal_parameters_train_then_the_others():
    """With as good as no second half's learning left, what moved shows who trained when."""
    federation = tiny_federation(epochs=1)
    method = make("feddpa", federation, threshold=0.05)
    play(method, COHORTS[:1])
    clients = torch.tensor([0, 1])
    start, personal = method.start(clients)
    task = method.task(start, clients)
    assert [task.phase(epoch, 6) for epoch in range(6)] == ["personal"] * 3 + ["shared"] * 3

    class FirstHalf(type(task)):
        def phase(self, epoch, epochs):
            return "personal"

    class SecondHalf(type(task)):
        def phase(self, epoch, epochs):
            return "shared"

    models = method.models(start, clients)
    for half, kept in ((FirstHalf, ~personal), (SecondHalf, personal)):
        task.__class__ = half
        moved = federation.trainer.fit(task, [0, 1], 2)
        assert torch.equal(moved[kept], models[kept])
        assert (moved != models)[~kept].float().mean() > 0.5

    both = method.train(start, clients)
    assert (both != models)[personal].any() and (both != models)[~personal].any()
    tuned = method.train(start, clients, FINE_TUNE)
    assert tuned.shape == both.shape and not torch.equal(tuned, both)


def test_the_constraints_hold_the_update_and_draw_it_to_the_bound(federation):
    def length(method):
        play(method, COHORTS[:1])
        update = method.state["local"][[0, 1, 2]] - federation.initial
        spans = federation.layout.spans.values()
        return sum(update[:, columns].norm(dim=1) for columns in spans)

    free = length(make("feddpa", federation, lambda_1=0, lambda_2=0))
    near = length(make("feddpa", federation, lambda_1=0, lambda_2=3, bound=0.1))
    far = length(make("feddpa", federation, lambda_1=0, lambda_2=3, bound=50))
    assert (near < free).all() and (far > free).all()

    # Almost everything is personal, so the first constraint alone holds it back.
    settings = {"threshold": 0, "rule": "quantile", "lambda_2": 0}
    loose = length(make("feddpa", federation, **settings, lambda_1=0))
    held = length(make("feddpa", federation, **settings, lambda_1=3))
    assert (held < 0.8 * loose).all()


def test_the_strengths_are_those_that_section_4_3_recommends(federation):
    settings = make("feddpa", federation).settings
    assert (settings.lambda_1, settings.lambda_2) == (0.05, 0.1)


def test_the_first_constraint_pulls_towards_the_clients_own_parameters(federation):
    """So strongly that nothing else counts; the authors' code pulls to the server's model."""

    def moved(constraints):
        method = make("feddpa", federation, threshold=0.02)
        play(method)
        clients = torch.tensor([0, 1, 2])
        start, personal = method.start(clients)
        strong = {"threshold": 0.02, "lambda_1": 1e3, "lambda_2": 0.0}
        strict = make("feddpa", federation, **strong, constraints=constraints)
        strict.state, strict.round = method.state, 4
        task = strict.task(start, clients)
        task.phase = lambda epoch, epochs: "personal"
        trained = federation.trainer.fit(task, [0, 1, 2], 4, lr=1e-5, epochs=1, momentum=0.0)
        begun = method.models(start, clients)
        server = method.global_params.expand_as(begun)
        return [
            (trained - to)[personal].norm() - (begun - to)[personal].norm()
            for to in (begun, server)
        ]

    from_own, from_server = moved("code")
    assert from_own > 0 and from_server < 0
    from_own_, from_server_ = moved("paper")
    assert from_own_ < 0.5 * from_own and from_server_ > from_server


def test_the_benchmark_trains_everything_at_once_for_fedavgs_epochs(federation):
    """From the merged model, with 60 % of every tensor personal at 0.4."""
    method = make("feddpa", federation, benchmark=True)
    play(method)
    clients = torch.tensor([0, 4])
    start, personal = method.start(clients)
    by_quantile = make("feddpa", federation, rule="quantile", threshold=0.4)
    by_quantile.state = method.state
    assert torch.equal(by_quantile.start(clients)[1], personal)
    shares = personal[:, federation.layout.spans["classifier.weight"]].float().mean(1)
    assert shares.tolist() == pytest.approx([0.6, 0.6], abs=0.001)
    models = method.models(start, clients)
    plain = federation.trainer.fit(models, [0, 4], method.round)
    assert torch.equal(method.train(start, clients), plain)


def test_clipping_shortens_what_is_uploaded_and_nothing_else(federation):
    plain = make("feddpa", federation, bound=0.3)
    clipped = make("feddpa", federation, bound=0.3, clip=True)
    for method in (plain, clipped):
        play(method, COHORTS[:1])
    initial, local = federation.initial, plain.state["local"]
    assert torch.equal(local, clipped.state["local"])
    total = torch.zeros_like(initial)
    for client in COHORTS[0]:
        update = local[client] - initial
        assert update.norm() > 0.3
        total += update * (0.3 / update.norm()) / len(COHORTS[0])
    assert same(clipped.global_params - initial, total, 1e-5)
    assert (clipped.global_params - initial).norm() < (plain.global_params - initial).norm()

    wide = make("feddpa", federation, bound=1e3, clip=True, lambda_2=0)
    usual = make("feddpa", federation, bound=1e3, lambda_2=0)
    for method in (wide, usual):
        play(method, COHORTS[:1])
    torch.testing.assert_close(wide.global_params, usual.global_params, rtol=1e-5, atol=1e-6)


def test_noise_is_on_the_upload_and_drawn_from_the_seed(federation):
    settings = {"bound": 0.3, "clip": True}
    silent, loud, again = (
        make("feddpa", federation, **settings, noise=noise) for noise in (0, 2, 2)
    )
    clients = torch.tensor([0, 1])
    for method in (silent, loud, again):
        method.round = 1
    start, _ = silent.start(clients)
    trained = silent.train(start, clients)
    noise = loud.upload(clients, start, trained) - silent.upload(clients, start, trained)
    assert torch.equal(again.upload(clients, start, trained), loud.upload(clients, start, trained))
    deviation = 2 * 0.3 / CLIENTS**0.5
    assert noise.std(dim=1).tolist() == pytest.approx([deviation] * 2, rel=0.02)
    assert noise.mean(dim=1).abs().max() < 0.01
    assert abs(torch.corrcoef(noise)[0, 1]) < 0.02  # each client has its own
    loud.round = 2
    later = loud.upload(clients, start, trained) - silent.upload(clients, start, trained)
    assert abs(torch.corrcoef(torch.stack([noise[0], later[0]]))[0, 1]) < 0.02

    loud.round = 1
    loud.finish(clients, start, trained)
    assert torch.equal(loud.state["local"][clients], trained)
    mean = again.upload(clients, start, trained).mean(0)
    assert torch.equal(loud.global_params, mean)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1.2}, r"\[0, 1\]"),
        ({"rule": "quantiles"}, "did you mean 'quantile'"),
        ({"lambda_1": -1}, "lambda_1 must not be negative"),
        ({"lambda_2": "nan"}, "lambda_2"),
        ({"bound": 0}, "must be positive"),
        ({"noise": -1, "clip": True}, "noise must not be negative"),
        ({"noise": 1}, "without clipping"),
        ({"constraints": "papers"}, "did you mean 'paper'"),
        ({"benchmark": True, "clip": True}, "the benchmark does not clip"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(UserError, match=message) as error:
        make_settings(METHODS["feddpa"], values)
    assert "\n" not in str(error.value)
