"""APFL against a literal version with two modules a client, and what makes it APFL."""

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
from torch.func import functional_call

from fedobp_lib.data.clients import FINE_TUNE
from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS, make_settings


def mixed_gradient(alpha, v, w, x, y):
    """Gradients at alpha v + (1 - alpha) w, by autograd through the mixture: of v, and of alpha."""
    weight = torch.tensor(alpha, requires_grad=True)
    ours = dict(v.named_parameters())
    theirs = {name: p.detach() for name, p in w.named_parameters()}
    mixture = {name: weight * ours[name] + (1 - weight) * theirs[name] for name in ours}
    loss = F.cross_entropy(functional_call(v, mixture, (x,)), y)
    *of_v, of_alpha = torch.autograd.grad(loss, [*ours.values(), weight])
    return of_v, of_alpha.item()


def literal_apfl(federation, alpha=0.5, sample_weights=False):
    """Algorithm 1 of APFL with its adaptive alpha, client after client.

    Its server divides the sum of the w by the number of clients.

    Returns the models before training of every round, the server's model, every v and alpha.
    """
    settings = federation.trainer.settings
    server = module_of(federation)
    own = [module_of(federation) for _ in range(federation.data.clients)]
    alphas = [alpha] * federation.data.clients
    before = []
    for number, cohort in enumerate(COHORTS, 1):
        uploads = []
        for client in cohort:
            v, w = own[client], copy.deepcopy(server)
            pairs = zip(v.parameters(), w.parameters(), strict=True)
            mixture = copy.deepcopy(v)
            with torch.no_grad():
                for p, (a, b) in zip(mixture.parameters(), pairs, strict=True):
                    p.copy_(alphas[client] * a + (1 - alphas[client]) * b)
            before.append(row_of(federation, mixture))
            x, y = federation.data.train(client)
            _, slope = mixed_gradient(alphas[client], v, w, x, y)
            alphas[client] = min(1.0, max(0.0, alphas[client] - settings.lr * slope))
            optimizers = [
                torch.optim.SGD(m.parameters(), lr=settings.lr, momentum=settings.momentum)
                for m in (v, w)
            ]
            for epoch in batches(federation, client, number):
                for x, y in epoch:
                    of_v, _ = mixed_gradient(alphas[client], v, w, x, y)
                    of_w = torch.autograd.grad(F.cross_entropy(w(x), y), list(w.parameters()))
                    for module, gradients in ((v, of_v), (w, of_w)):
                        for p, g in zip(module.parameters(), gradients, strict=True):
                            p.grad = g
                    for optimizer in optimizers:
                        optimizer.step()
            uploads.append(w)
        with torch.no_grad():
            for p, *parts in zip(
                server.parameters(), *(u.parameters() for u in uploads), strict=True
            ):
                if sample_weights:
                    shares = weights_of(federation, cohort)
                    p.copy_(sum(s * part for s, part in zip(shares, parts, strict=True)))
                else:
                    p.copy_(sum(parts) / len(cohort))
    rows = torch.stack([row_of(federation, v) for v in own])
    return torch.stack(before), row_of(federation, server), rows, torch.tensor(alphas)


@pytest.mark.parametrize("settings", [{}, {"sample_weights": True}])
def test_the_rounds_are_those_of_the_paper(settings):
    federation = tiny_federation()
    method = make("apfl", federation, **settings)
    before = []
    for number, cohort in enumerate(COHORTS, 1):
        method.round = number
        clients = torch.tensor(cohort)
        start, personal = method.start(clients)
        assert personal.all()
        before.append(method.models(start, clients))
        method.finish(clients, start, method.train(start, clients))
    models, server, own, alphas = literal_apfl(federation, **settings)
    assert same(torch.cat(before), models)
    assert same(method.global_params, server)
    assert same(method.state["own"], own)
    assert same(method.state["own"] - federation.initial, own - federation.initial, 1e-4)
    torch.testing.assert_close(method.state["alpha"], alphas, rtol=1e-5, atol=1e-6)
    assert alphas[:3].sub(0.5).abs().min() > 1e-4  # every one that took part twice has moved


def test_batched_equals_the_loop():
    rounds = []
    for backend in ("loop", "batched"):
        method = make("apfl", tiny_federation(backend))
        rounds.append((play(method), method.state))
    (loop, kept), (batched, ours) = rounds
    for one, other in zip(batched, loop, strict=True):
        assert same(one[0], other[0], 1e-4) and same(one[1], other[1], 1e-4)
    assert all(same(ours[name], kept[name], 1e-4) for name in kept)


def test_own_models_and_weights_wait_while_others_train():
    method = make("apfl", tiny_federation())
    play(method, COHORTS[:1])
    assert torch.equal(method.state["alpha"], torch.full((5,), 0.5))  # v was w, so no slope
    client_0 = method.state["own"][0].clone()
    old_server = method.global_params.clone()
    clients = torch.tensor(COHORTS[1])
    method.round = 2
    start, _ = method.start(clients)
    method.finish(clients, start, method.train(start, clients))
    assert torch.equal(method.state["own"][0], client_0)
    assert torch.equal(method.state["own"][3], method.federation.initial)
    assert method.state["alpha"][[0, 3]].tolist() == [0.5, 0.5]
    assert method.state["alpha"][1] != 0.5
    # Its personalized model follows the server's new one all the same.
    assert not torch.equal(method.global_params, old_server)
    assert same(models_before(method, [0])[0], 0.5 * client_0 + 0.5 * method.global_params, 1e-6)


def test_the_mixture_is_tested_before_and_after():
    method = make("apfl", tiny_federation(lr=0.01))
    play(method)
    clients = torch.tensor([0, 2])
    start, _ = method.start(clients)
    state = {name: tensor.clone() for name, tensor in method.state.items()}
    trained = method.train(start, clients, FINE_TUNE)
    assert all(torch.equal(state[name], method.state[name]) for name in state)
    losses = []
    for rows in (start, trained):
        own, shared, alpha = *rows[:, :-1].chunk(2, 1), rows[:, -1:]
        models = method.models(rows, clients)
        assert same(models, alpha * own + (1 - alpha) * shared, 1e-6)
        assert not same(models, own, 1e-3) and not same(models, shared, 1e-3)
        losses.append(method.federation.trainer.losses(models, [0, 2]))
    assert (losses[1] < losses[0]).all()


@pytest.mark.parametrize("normalized", [False, True])
def test_at_its_ends_it_is_fedavg_and_local_training(normalized):
    """Fixed at 0, the mixture is the global model; at 1, it is the client's own."""
    federation = normalized_federation() if normalized else tiny_federation()
    only_global = make("apfl", federation, alpha=0, adaptive=False, sample_weights=True)
    only_own = make("apfl", federation, alpha=1, adaptive=False, sample_weights=True)
    fedavg, local = make("fedavg", federation), make("local-only", federation)
    for method in (only_global, only_own, fedavg, local):
        play(method)
    everyone = list(range(5))
    assert same(models_before(only_global, everyone), models_before(fedavg, everyone), 1e-6)
    assert same(models_before(only_own, everyone), models_before(local, everyone), 1e-6)
    assert same(only_own.global_params, fedavg.global_params, 1e-6)


@pytest.mark.parametrize("normalized", [False, True])
def test_clients_count_alike(normalized):
    """Also in running statistics, and whatever they have of samples."""
    federation = normalized_federation() if normalized else tiny_federation()
    method = make("apfl", federation, adaptive=False)
    ((_, trained),) = play(method, COHORTS[:1])
    shared = trained[:, federation.layout.size : -1]
    assert same(method.global_params, (shared[0] + shared[1] + shared[2]) / 3, 1e-6)
    counts = federation.data.train_counts[COHORTS[0]].float()
    weighted = (counts / counts.sum()) @ shared
    assert not same(method.global_params, weighted, 1e-4)


def test_running_statistics_are_those_of_the_mixture():
    """With a global model that does not move, they come to what the mixture's batches have."""
    federation = normalized_federation(lr=0.0, epochs=200, batch_size=1000)
    method = make("apfl", federation, alpha=0.5, adaptive=False)
    parameters = federation.layout.parameters
    generator = torch.Generator().manual_seed(0)
    method.state["own"][:, :parameters] += torch.randn(5, parameters, generator=generator) / 4
    clients = torch.tensor([2])
    start, _ = method.start(clients)
    trained = method.models(method.train(start, clients), clients)
    mixture = method.models(start, clients)
    assert torch.equal(trained[:, :parameters], mixture[:, :parameters])
    x, _ = federation.data.train(2)
    convolution = {name[5:]: t[0] for name, t in federation.layout.views(mixture).items()
                   if name.startswith("conv")}  # fmt: skip
    seen = F.conv2d(x, convolution["weight"], convolution["bias"], stride=4).movedim(1, 0)
    views = federation.layout.views(trained)
    expected = seen.flatten(1).mean(1), seen.flatten(1).var(1)
    assert same(views["norm.running_mean"][0], expected[0], 0.02)
    assert same(views["norm.running_var"][0], expected[1], 0.02)


def test_alpha_stays_between_0_and_1():
    """A huge slope, up or down, ends at the border."""
    federation = tiny_federation(epochs=1, lr=0.01)
    method = make("apfl", federation)
    clients = torch.tensor([0, 1, 2])
    gradient = federation.trainer.gradient(federation.initial.repeat(3, 1), [0, 1, 2])
    for sign, border in ((1, 0.0), (-1, 1.0)):
        rows = method.start(clients)[0].clone()
        # v and w lie on two sides of the initial model, so the mixture is the initial model.
        own, shared = rows[:, :-1].tensor_split(2, dim=1)
        step = 1000 * sign * gradient
        own += step
        shared -= step
        assert method.adapted(rows, clients).flatten().tolist() == [border] * 3


def test_settings_are_checked():
    for alpha in (-0.1, 1.5, "nan"):
        with pytest.raises(UserError, match=r"alpha must lie in \[0, 1\]"):
            make_settings(METHODS["apfl"], {"alpha": alpha})
    fixed = make("apfl", tiny_federation(), alpha=0.25, adaptive="false")
    play(fixed)
    assert fixed.state["alpha"].tolist() == [0.25] * 5
