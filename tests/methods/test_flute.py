"""FLUTE against a literal version, and what makes it FLUTE."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.literal import (
    CLASSES,
    CLIENTS,
    COHORTS,
    batches,
    make,
    module_of,
    play,
    row_of,
    same,
    tiny_federation,
    tiny_images,
    weights_of,
)
from helpers.literal import (
    models_before as before_training,
)

from fedobp_lib import RunConfig
from fedobp_lib.data.clients import FINE_TUNE
from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS, make_settings
from fedobp_lib.methods.flute import simplex
from fedobp_lib.simulation import simulate


def neural_collapse(weight, present):
    """The paper's NC of one head, classes that the client lacks have an empty target."""
    m = len(present)
    gram = weight @ weight.T
    target = torch.zeros(m, m)
    for a in range(m):
        for b in range(m):
            if present[a] and present[b]:
                target[a, b] = ((a == b) - 1 / m) / (m - 1) ** 0.5
    return torch.norm(gram / torch.norm(gram) - target)


def present_classes(federation, client):
    labels = federation.data.labels_of(client).tolist()
    return [c in labels for c in range(CLASSES)]


def literal_flute(
    federation,
    cohorts,
    l1=0.25,
    l2=0.0025,
    l3=0.0005,
    server_lr=0.5,
    body=1,
    benchmark=False,
):
    """Returns the server's model, every client's head (weight, bias), and the start models.

    `benchmark`: features are detached; who was never selected takes the server's classifier,
    which is the weighted mean of what the cohort uploaded.
    """
    settings = federation.trainer.settings
    server = module_of(federation)
    first = server.classifier
    heads = [(first.weight.detach().clone(), first.bias.detach().clone()) for _ in range(CLIENTS)]

    selected = set()

    def personal(client):
        model = module_of(federation, row_of(federation, server))
        if benchmark and client not in selected:
            return model
        model.classifier.weight.data = heads[client][0].clone()
        model.classifier.bias.data = heads[client][1].clone()
        return model

    for number, cohort in enumerate(cohorts, 1):
        uploads = []
        for client in cohort:
            model = personal(client)
            present = present_classes(federation, client)
            optimizer = torch.optim.SGD(model.parameters(), settings.lr, settings.momentum)
            for epoch, epoch_batches in enumerate(batches(federation, client, number)):
                joint = epoch >= settings.epochs - body
                for name, parameter in model.named_parameters():
                    parameter.requires_grad = joint or name.startswith("classifier")
                for x, y in epoch_batches:
                    features = model.features(x)
                    if benchmark:
                        features = features.detach()
                    weight = model.classifier.weight
                    loss = F.cross_entropy(model.classifier(features), y)
                    loss = loss + l1 * neural_collapse(weight, present)
                    loss = loss + l2 * (weight**2).sum() + l3 * (features**2).sum()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
            uploads.append(model)
        shares = [1 / len(cohort)] * len(cohort)  # Algorithm 2: (1/M) times a sum
        if benchmark:
            shares = weights_of(federation, cohort)
        rows = [row_of(federation, model) for model in uploads]
        mean = sum(share * row for share, row in zip(shares, rows, strict=True))
        server = module_of(federation, mean)
        matrices = [model.classifier.weight.detach().clone() for model in uploads]
        for matrix in matrices:
            matrix.requires_grad = True
        total = 0
        for client, matrix in zip(cohort, matrices, strict=True):
            total = total + neural_collapse(matrix, present_classes(federation, client))
        slopes = torch.autograd.grad(total / len(cohort), matrices)
        for client, model, matrix, slope in zip(cohort, uploads, matrices, slopes, strict=True):
            moved = matrix.detach() - server_lr * slope
            heads[client] = (moved, model.classifier.bias.detach().clone())
        selected.update(cohort)
    starts = [row_of(federation, personal(client)) for client in range(CLIENTS)]
    return row_of(federation, server), heads, starts


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"feature_decay": 0.003, "nc_weight": 1.5, "head_decay": 0.05, "body_epochs": 2,
         "server_lr": 2.0},
        {"benchmark": True},
        {"benchmark": True, "feature_decay": 0.003, "nc_weight": 1.5, "head_decay": 0.05},
    ],
)  # fmt: skip
def test_flute_is_the_literal_algorithm(values):
    federation = tiny_federation()
    names = {"nc_weight": "l1", "head_decay": "l2", "feature_decay": "l3", "body_epochs": "body"}
    method = make("flute", federation, **values)
    server, heads, starts = literal_flute(
        federation, COHORTS, **{names.get(name, name): value for name, value in values.items()}
    )
    play(method)
    layout = federation.layout
    body = slice(0, layout.layers["classifier"].start)
    assert same(method.global_params[body], server[body])
    models = before_training(method, list(range(CLIENTS)))
    for client, (weight, bias) in enumerate(heads):
        assert same(models[client], starts[client])
        if method.settings.benchmark and client == 3:
            continue  # it was never selected and has no head of its own
        views = layout.views(models[client])
        assert same(views["classifier.weight"], weight) and same(views["classifier.bias"], bias)


@pytest.mark.parametrize("benchmark", [False, True])
def test_batched_equals_loop(benchmark):
    """With a feature term so strong that filled-up batches would be seen, were they counted."""
    states, settings = [], {"feature_decay": 0.02, "body_epochs": 2, "benchmark": benchmark}
    for backend in ("loop", "batched"):
        method = make("flute", tiny_federation(backend), **settings)
        play(method)
        states.append(method.state)
    for name, tensor in states[0].items():
        assert same(states[1][name].float(), tensor.float(), 1e-4)


def test_head_epochs_leave_the_representation_alone():
    federation = tiny_federation()
    method = make("flute", federation, body_epochs=0)
    start, trained = play(method, COHORTS[:1])[0]
    body = slice(0, federation.layout.layers["classifier"].start)
    assert torch.equal(trained[:, body], start[:, body])
    assert (trained[:, body.stop :] != start[:, body.stop :]).float().mean() > 0.9
    start, trained = play(make("flute", federation), COHORTS[:1])[0]
    assert (trained[:, body] != start[:, body]).any(1).all()


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_the_benchmarks_features_stay_random(backend):
    """No round moves the representation; a client that was never selected has the mean head."""
    federation = tiny_federation(backend)
    method = make("flute", federation, benchmark=True)
    rounds = play(method)
    body = slice(0, federation.layout.layers["classifier"].start)
    head = federation.layout.layers["classifier"]
    assert same(method.global_params[body], federation.initial[body], 1e-6)
    never, seldom = before_training(method, [3, 4])
    shares = torch.tensor(weights_of(federation, COHORTS[-1]))
    assert same(never[head], shares @ rounds[-1][1][:, head])
    assert torch.equal(seldom[head], method.state["heads"][4])
    assert torch.equal(before_training(make("flute", federation), [3])[0], federation.initial)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_the_server_moves_the_weights_of_the_heads_it_got(backend):
    """Towards neural collapse; biases and the heads of absent clients keep their bits."""
    federation = tiny_federation(backend)
    method = make("flute", federation)
    before = method.state["heads"].clone()
    _, trained = play(method, [[1, 2, 4]])[0]
    width = federation.layout.spans["classifier.weight"]
    kept, count = method.state["heads"], width.stop - width.start
    assert torch.equal(kept[[0, 3]], before[[0, 3]])
    assert torch.equal(kept[[1, 2, 4], count:], trained[:, width.stop : federation.layout.size])
    for client, row in zip([1, 2, 4], trained, strict=True):
        present = present_classes(federation, client)
        old, new = row[width].view(CLASSES, -1), kept[client, :count].view(CLASSES, -1)
        assert neural_collapse(new, present) < neural_collapse(old, present)
    still = make("flute", federation, server_lr=0.0)
    _, trained = play(still, [[1, 2, 4]])[0]
    assert torch.equal(still.state["heads"][[1, 2, 4]], trained[:, width.start :])


def test_heads_survive_rounds_without_their_client():
    federation = tiny_federation()
    method = make("flute", federation)
    play(method, [[0, 1]])
    head = method.state["heads"][0].clone()
    play(method, [[1, 2], [2, 3]])
    start, personal = method.start(torch.tensor([0]))
    columns = federation.layout.layers["classifier"]
    assert torch.equal(start[0, columns], head)
    assert torch.equal(start[0, : columns.start], method.global_params[: columns.start])
    assert personal.sum() == columns.stop - columns.start and personal[columns].all()


def test_the_benchmark_trains_heads_in_a_round_and_all_of_the_model_in_a_test():
    federation = tiny_federation()
    method = make("flute", federation, benchmark=True)
    clients = torch.tensor([1, 2])
    method.round = 1
    start, _ = method.start(clients)
    body = slice(0, federation.layout.layers["classifier"].start)
    assert torch.equal(method.train(start, clients)[:, body], start[:, body])
    plain = federation.trainer.fit(start, [1, 2], 1, FINE_TUNE)
    assert torch.equal(method.train(start, clients, FINE_TUNE), plain)
    assert not torch.equal(plain[:, body], start[:, body])
    ours = make("flute", federation)
    ours.round = 1
    assert not torch.equal(ours.train(start, clients, FINE_TUNE), plain)


def test_the_target_is_a_simplex_of_the_classes_a_client_has():
    """All classes: unit norm and equal angles. Lacking ones: empty rows, so orthogonal."""
    whole, part = simplex(torch.tensor([[True] * 4, [True, False, True, False]]))
    assert torch.isclose(torch.linalg.matrix_norm(whole), torch.tensor(1.0))
    angles = whole / whole.diagonal().mean()
    torch.testing.assert_close(angles, torch.full((4, 4), -1 / 3).fill_diagonal_(1.0))
    assert torch.equal(part[[0, 2]][:, [0, 2]], whole[[0, 2]][:, [0, 2]])
    assert not part[[1, 3]].any() and not part[:, [1, 3]].any()


def test_a_collapsed_head_is_where_the_regularizer_rests():
    """No slope, and no division by zero."""
    from fedobp_lib.methods.flute import collapse_gradient

    target = simplex(torch.ones(1, 3, dtype=torch.bool))
    values, vectors = torch.linalg.eigh(target[0])
    collapsed = (vectors * values.clamp(min=0).sqrt())[None]
    assert collapse_gradient(collapsed, collapsed @ collapsed.mT).abs().max() < 1e-3
    gram = collapsed @ collapsed.mT
    exact = gram / torch.linalg.matrix_norm(gram)
    assert not collapse_gradient(collapsed, exact).any()


def test_bad_settings_are_refused():
    for name in ("nc_weight", "head_decay", "feature_decay", "server_lr", "body_epochs"):
        with pytest.raises(UserError, match=f"{name} must not be negative, got -1"):
            make_settings(METHODS["flute"], {name: -1})


def test_data_of_a_single_class_have_a_loss():
    assert torch.equal(simplex(torch.ones(2, 1, dtype=torch.bool)), torch.zeros(2, 1, 1))
    one = replace(tiny_images(), labels=np.zeros(150, np.int64), classes=1)
    config = RunConfig(method="flute", clients=4, participation=0.5, rounds=1, local_epochs=1)
    simulation = simulate(config, one)
    simulation.run(progress=False)
    assert simulation.diverged is None
    assert np.isfinite([row[-1] for row in simulation.history]).all()
