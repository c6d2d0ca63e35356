"""FLOCO against a literal version, and what makes it FLOCO."""

import copy
import itertools
from dataclasses import replace

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
from sklearn.decomposition import PCA
from torch import nn

from fedobp_lib.data.clients import FINE_TUNE, TRAIN
from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS, make_settings, simplex
from fedobp_lib.methods.banks import HostBank
from fedobp_lib.methods.simplex import onto_simplex, project

# The projection comes at the end of round 2; round 3 trains in regions.
SETTINGS = {"endpoints": 3, "tau": 3, "rho": 0.3}


@pytest.fixture(scope="module")
def federation():
    return tiny_federation()


class LiteralSimplex(nn.Module):
    """A linear layer with one bias and several weights, mixed by `alphas`."""

    def __init__(self, weights, bias):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(w.clone()) for w in weights])
        self.bias = nn.Parameter(bias.clone())
        self.alphas = [1 / len(weights)] * len(weights)

    def forward(self, x):
        weight = sum(a * w for a, w in zip(self.alphas, self.weights, strict=True))
        return F.linear(x, weight, self.bias)


def literal_model(federation, ends):
    model = module_of(federation)
    shape = model.classifier.weight.shape
    model.classifier = LiteralSimplex([e.view(shape) for e in ends], model.classifier.bias.data)
    return model


def literal_train(federation, server, client, number, center, rho):
    """One client's local training; `center` None: anywhere on the simplex."""
    model = copy.deepcopy(server)
    settings = federation.trainer.settings
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=settings.momentum)
    points = len(model.classifier.weights)
    epochs = list(batches(federation, client, number))
    draws = federation.data.draws(
        client, number, TRAIN, settings.epochs, len(epochs[0]), points + 1
    ).double()
    for epoch, turn in enumerate(epochs):
        for step, (images, labels) in enumerate(turn):
            *each, last = draws[epoch, step].tolist()
            if center is None:
                exponential = [-np.log(1 - u) for u in each]
                model.classifier.alphas = [e / sum(exponential) for e in exponential]
            else:
                cube = [2 * u - 1 for u in each]
                total = sum(abs(v) for v in cube)
                model.classifier.alphas = [
                    c + rho * last * v / total for c, v in zip(center, cube, strict=True)
                ]
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model


def literal_nearest(points, total):
    """For each row the nearest y with y >= 0 and this sum: by bisection of the common shift."""
    low, high = points.min(1) - total, points.max(1)
    for _ in range(60):
        middle = (low + high) / 2
        large = np.maximum(points - middle[:, None], 0).sum(1) > total
        low, high = np.where(large, middle, low), np.where(large, high, middle)
    return np.maximum(points - high[:, None], 0)


def literal_projection(signals, points):
    """scikit-learn's PCA, then the scale with the least energy."""
    kappas = PCA(points, svd_solver="full").fit_transform(signals)
    best, least = None, np.inf
    for z in np.linspace(1e-4, 1, 1000):
        betas = literal_nearest(kappas, z)
        betas /= betas.sum(axis=1, keepdims=True)
        energy = sum(
            max(np.linalg.norm(a - b), 1e-4) ** -2 for a, b in itertools.combinations(betas, 2)
        )
        if energy < least:
            best, least = betas, energy
    return best


def literal_at(federation, model, alphas):
    """The row of an ordinary model at a point of the simplex."""
    plain = module_of(federation)
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.w")}
    weights = model.classifier.weights
    state["classifier.weight"] = sum(a * w.data for a, w in zip(alphas, weights, strict=True))
    plain.load_state_dict(state)
    return row_of(federation, plain)


def test_it_is_the_literal_algorithm(federation):
    method = make("floco", federation, **SETTINGS)
    server = literal_model(federation, method.state["ends"])
    play(method)

    points, rho = SETTINGS["endpoints"], SETTINGS["rho"]
    centers = None
    for number, cohort in enumerate(COHORTS, 1):
        trained = [
            literal_train(
                federation,
                server,
                client,
                number,
                None if centers is None else centers[client],
                rho,
            )
            for client in cohort
        ]
        if number == SETTINGS["tau"] - 1:
            signals = []
            for client in range(CLIENTS):
                model = literal_train(federation, server, client, number, None, rho)
                signals.append(
                    np.concatenate(
                        [
                            (old - new).detach().numpy().ravel()
                            for old, new in zip(
                                server.classifier.weights, model.classifier.weights, strict=True
                            )
                        ]
                    )
                )
            centers = literal_projection(np.array(signals, np.float64), points)
        with torch.no_grad():
            shares = weights_of(federation, cohort)
            for old, *new in zip(
                server.parameters(), *[model.parameters() for model in trained], strict=True
            ):
                old.copy_(sum(share * one for share, one in zip(shares, new, strict=True)))

    ends = torch.stack([w.data.flatten() for w in server.classifier.weights])
    assert same(method.state["ends"], ends)
    assert same(method.state["centers"], torch.from_numpy(centers).float())
    assert same(method.global_params, literal_at(federation, server, [1 / points] * points))
    expected = [literal_at(federation, server, center) for center in centers]
    assert same(models_before(method, list(range(CLIENTS))), torch.stack(expected))
    assert len(np.unique(centers.round(3), axis=0)) > 1


def test_without_settings_it_is_the_algorithm_of_the_papers_experiments(federation):
    """20 end points, regions of radius 0.1, from half of the rounds on."""
    half = replace(federation, rounds=2 * SETTINGS["tau"])
    ours = make("floco", half)
    papers = make("floco", half, endpoints=20, rho=0.1, tau=SETTINGS["tau"])
    for (start, trained), (start_, trained_) in zip(play(ours), play(papers), strict=True):
        assert torch.equal(start, start_) and torch.equal(trained, trained_)
    assert ours.state["projected"] and ours.state["ends"].shape[0] == 20
    flowers = make("floco", half, endpoints=20, rho=0.3)
    (_, trained), *_ = reversed(play(flowers))
    assert not torch.equal(trained, trained_)


def test_batched_equals_the_loop(federation):
    ours, loop = (
        make("floco", tiny_federation("batched"), **SETTINGS),
        make("floco", federation, **SETTINGS),
    )
    for (start, trained), (start_, trained_) in zip(play(ours), play(loop), strict=True):
        assert same(start, start_, 1e-4) and same(trained, trained_, 1e-4)
    assert ours.state.keys() == loop.state.keys()
    for name, tensor in loop.state.items():
        assert same(ours.state[name], tensor, 1e-4)


def test_end_points_begin_with_xavier_weights_of_their_own(federation):
    ends = make("floco", federation, endpoints=10).state["ends"]
    shape = 3, 512
    assert ends.shape == (10, 3 * 512)
    deviation = (2 / sum(shape)) ** 0.5
    assert ends.std(dim=1).tolist() == pytest.approx([deviation] * 10, rel=0.1)
    assert (torch.corrcoef(ends) - torch.eye(10)).abs().max() < 0.15
    assert torch.equal(ends, make("floco", federation, endpoints=10).state["ends"])


def test_before_the_projection_all_clients_are_tested_at_the_centre(federation):
    method = make("floco", federation, endpoints=4, tau=10)
    play(method)
    models = models_before(method, [0, 3])
    assert torch.equal(models[0], models[1])
    weight = federation.layout.spans["classifier.weight"]
    torch.testing.assert_close(models[0, weight], method.state["ends"].mean(0))
    body = torch.ones(federation.layout.size, dtype=torch.bool)
    body[weight] = False
    assert torch.equal(models[0, body], method.global_params[body])
    assert method.state["centers"].unique().tolist() == [0.25]


def test_a_step_moves_each_end_point_by_its_share_of_the_gradient(federation):
    method = make("floco", federation, **SETTINGS)
    clients = torch.tensor([1, 2])
    start, personal = method.start(clients)
    assert personal is None
    task = method.task(start, clients)
    layout, weight = federation.layout, federation.layout.spans["classifier.weight"]
    seen = []

    def gradient(models):
        seen.append(models.clone())
        return torch.ones_like(models)

    draw = torch.tensor([[0.5, 0.9, 0.2, 0.7], [0.1, 0.1, 0.1, 0.4]])
    direction = task.direction(start.clone(), task.given, None, gradient, draw)
    alphas = -np.log(1 - draw[:, :3].double().numpy())
    alphas = torch.from_numpy(alphas / alphas.sum(1, keepdims=True)).float()
    torch.testing.assert_close(alphas[1], torch.full((3,), 1 / 3))
    ends = direction[:, layout.size :].unflatten(1, (3, -1))
    torch.testing.assert_close(ends, alphas[:, :, None].expand_as(ends))
    assert (direction[:, : layout.size].sum(1) == layout.size - 3 * 512).all()
    torch.testing.assert_close(seen[0][:, weight], alphas @ method.state["ends"])


def test_points_are_uniform_on_the_simplex_and_inside_the_region(federation):
    method = make("floco", federation, **SETTINGS)
    draw = torch.rand((20000, 4), generator=torch.Generator().manual_seed(0))
    clients = torch.zeros(20000, dtype=torch.int64)
    everywhere = method.task(method.start(clients[:1])[0], clients[:1])
    points = everywhere.point(draw, everywhere.given["center"])
    torch.testing.assert_close(points.sum(1), torch.ones(20000))
    # Of a uniform point of the simplex each coordinate exceeds t with probability (1 - t)^2.
    for t in (0.1, 0.5, 0.8):
        torch.testing.assert_close(
            (points > t).float().mean(0), torch.full((3,), (1 - t) ** 2), atol=0.015, rtol=0
        )

    center = torch.tensor([[0.7, 0.3, 0.0]])
    method.state["projected"].fill_(1)
    method.state["centers"][:] = center
    near = method.task(method.start(clients[:1])[0], clients[:1])
    away = near.point(draw, center) - center
    lengths = away.abs().sum(1)
    assert lengths.max() <= 0.3 + 1e-6
    assert np.quantile(lengths, [0.25, 0.5, 0.75]) == pytest.approx([0.075, 0.15, 0.225], abs=0.005)
    assert away.mean(0).abs().max() < 0.005


def test_the_projection_asks_all_clients_but_only_the_cohort_trains_the_server(federation):
    asked = []

    class Watched(METHODS["floco"]):
        def train(self, start, clients, purpose=TRAIN):
            asked.append((self.round, clients.tolist()))
            return super().train(start, clients, purpose)

    settings = make_settings(METHODS["floco"], SETTINGS)
    method = Watched(federation, settings)
    play(method)
    assert [clients for number, clients in asked if number == 2] == [[1, 2, 4], [0, 3]]
    never = make("floco", federation, **SETTINGS | {"tau": 9})
    play(never, COHORTS[:2])
    two = make("floco", federation, **SETTINGS)
    play(two, COHORTS[:2])
    assert torch.equal(two.state["ends"], never.state["ends"])
    assert torch.equal(two.global_params, never.global_params)

    centers = two.state["centers"]
    assert (centers >= 0).all() and torch.allclose(centers.sum(1), torch.ones(CLIENTS))
    assert len(centers.unique(dim=0)) > 2
    assert torch.equal(method.state["centers"], centers)  # for good


def test_a_client_is_tested_at_its_own_point_before_and_after_training(federation):
    method = make("floco", federation, **SETTINGS)
    play(method)
    clients = torch.tensor([3, 0])
    weight = federation.layout.spans["classifier.weight"]
    start, _ = method.start(clients)
    assert torch.equal(start[0], start[1])  # what the server sends is the same
    tuned = method.train(start, clients, FINE_TUNE)
    for rows in (start, tuned):
        ends = rows[:, federation.layout.size :].unflatten(1, (3, -1))
        models = method.models(rows, clients)
        for k, client in enumerate(clients.tolist()):
            mixed = sum(method.state["centers"][client, m] * ends[k, m] for m in range(3))
            torch.testing.assert_close(models[k, weight], mixed)
    before = method.models(start, clients)
    assert not torch.allclose(before[0, weight], before[1, weight])
    # In a region without extent nothing is drawn: training is that of the one classifier.
    method.settings = make_settings(METHODS["floco"], SETTINGS | {"rho": 0})
    method.state["centers"][:] = torch.tensor([0.0, 1.0, 0.0])
    tuned = method.train(start, clients)
    plain = method.models(start, clients).clone()
    plain = federation.trainer.fit(plain, clients.tolist(), method.round)
    assert same(method.models(tuned, clients), plain)
    ends, first = tuned[:, federation.layout.size :], start[:, federation.layout.size :]
    ends, first = ends.unflatten(1, (3, -1)), first.unflatten(1, (3, -1))
    assert torch.equal(ends[:, [0, 2]], first[:, [0, 2]])


def test_the_projection_spreads_groups_of_clients():
    """Clients of one kind come to lie nearer to each other than to others."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.eye(3), 4, axis=0)
    signals = torch.from_numpy(kinds @ rng.normal(size=(3, 40)) + 0.01 * rng.normal(size=(12, 40)))
    points = project(signals, 4)
    distance = torch.cdist(points, points)
    alike = torch.from_numpy(kinds @ kinds.T > 0)
    assert distance[alike].mean() < 0.5 * distance[~alike].mean()
    reference = literal_projection(signals.numpy(), 4)
    np.testing.assert_allclose(points.numpy(), reference, atol=1e-9)


@pytest.mark.parametrize("at_once", [1, 3 * 40, 7 * 40])
def test_signals_that_are_read_in_parts(monkeypatch, at_once):
    """Of a bank, and in parts that do not divide the clients; they are placed as at once."""
    signals = torch.randn((12, 40), generator=torch.Generator().manual_seed(1)).double()
    whole = project(signals, 4)
    bank = HostBank(12, torch.zeros(40).double(), torch.device("cpu"))
    bank[torch.arange(12)] = signals
    monkeypatch.setattr(simplex, "AT_ONCE", at_once)
    for read in (signals, bank):
        torch.testing.assert_close(project(read, 4), whole, rtol=0, atol=1e-9)


def test_more_end_points_than_clients():
    points = project(torch.randn((4, 30), generator=torch.Generator().manual_seed(0)), 10)
    assert points.shape == (4, 10) and len(points.unique(dim=0)) == 4
    torch.testing.assert_close(points.sum(1), torch.ones(4))


def test_onto_simplex_is_the_nearest_point():
    points = torch.randn((50, 5), generator=torch.Generator().manual_seed(0)).double()
    expected = literal_nearest(points.numpy(), 1.0)
    np.testing.assert_allclose(onto_simplex(points).numpy(), expected, atol=1e-12)
    inside = torch.tensor([[0.2, 0.3, 0.5]])
    torch.testing.assert_close(onto_simplex(inside), inside)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"endpoints": 1}, "at least 2 endpoints"),
        ({"tau": 1}, "tau must be at least 2"),
        ({"rho": -0.1}, "rho must not be negative"),
        ({"rho": "nan"}, "rho"),
        ({"endpoint": 3}, "did you mean 'endpoints'"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(UserError, match=message) as error:
        make_settings(METHODS["floco"], values)
    assert "\n" not in str(error.value)
