"""pFedFDA against a literal version, and what makes it pFedFDA."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.literal import (
    CLASSES,
    COHORTS,
    SHAPE,
    batches,
    make,
    module_of,
    play,
    row_of,
    same,
    tiny_federation,
    weights_of,
)
from helpers.literal import (
    models_before as before_training,
)
from scipy.optimize import minimize
from torch.distributions import MultivariateNormal

from fedobp_lib.data.clients import INIT, ClientData, stream
from fedobp_lib.data.partition import Partition
from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS, Federation, make_settings, pfedfda
from fedobp_lib.methods.gaussians import Estimator, lda
from fedobp_lib.training.parallel import map_on_threads
from fedobp_lib.training.trainer import Trainer

EPS, FOLDS = 1e-4, 2


def statistics(z, labels, fallback):
    """Class by class and sample by sample."""
    means = fallback.clone()
    for c in range(len(fallback)):
        mine = [z[i] for i in range(len(z)) if labels[i] == c]
        if len(mine) > FOLDS:
            means[c] = sum(mine) / len(mine)
    centred = torch.stack([z[i] - means[labels[i]] for i in range(len(z))])
    return means, centred.T @ centred / (len(z) - 1) + torch.eye(z.shape[1])


def classifier(means, covariance, priors):
    """Weight and bias by solving with the shrunken covariance as it stands."""
    width = len(covariance)
    shrunk = (1 - EPS) * covariance + EPS * covariance.trace() / width * torch.eye(width)
    weight = torch.linalg.solve(shrunk, means.T).T
    return weight, torch.log(priors) - 0.5 * (weight * means).sum(1)


def mixed(betas, own, common):
    return [b * mine + (1 - b) * theirs for b, mine, theirs in zip(betas, own, common, strict=True)]


def split_folds(labels):
    """Classes in turn, each dealt out; classes with too few samples are left out."""
    usable = [i for i in range(len(labels)) if (labels == labels[i]).sum() >= FOLDS]
    usable.sort(key=lambda i: (int(labels[i]), i))
    return [usable[k::FOLDS] for k in range(FOLDS)]


def held_out_loss(z, labels, common, priors):
    """The cross-validated loss as a function of the betas, or None without enough samples."""
    folds = split_folds(labels)
    if len(labels) == 0 or min(len(folds[1 - k]) for k in range(2)) < 2:
        return None
    parts = []
    for k in range(2):
        train, test = folds[1 - k], folds[k]
        parts.append((statistics(z[train], labels[train], common[0]), z[test], labels[test]))

    def loss(betas):
        total = 0
        for own, held_out, truth in parts:
            weight, bias = classifier(*mixed(betas, own, common), priors)
            total = total + F.cross_entropy(held_out @ weight.T + bias, truth)
        return total

    return loss


def literal_adapt(z, labels, common, priors, single):
    """A client's interpolated statistics; `single`: both with the same beta."""
    loss, betas = held_out_loss(z, labels, common, priors), [0.0, 0.0]
    if loss is not None:

        def with_slope(x):
            point = torch.tensor(x, requires_grad=True)
            value = loss(point.expand(2))
            (slope,) = torch.autograd.grad(value, point)
            return value.item(), slope.numpy()

        corners = [(a, b) for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0) if a == b or not single]
        first = min(corners, key=loss)[: 1 if single else 2]
        best = minimize(
            with_slope, first, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * len(first),
            options={"ftol": 1e-12, "gtol": 1e-8},
        )  # fmt: skip
        betas = [best.x[0], best.x[-1]]
    return mixed(betas, statistics(z, labels, common[0]), common), betas


def literal_pfedfda(federation, cohorts, single=False):
    """Returns the server's model, means and covariance, and a function from client to model."""
    settings, data = federation.trainer.settings, federation.data
    server = module_of(federation)
    width = server.classifier.in_features
    drawn = stream(data.seed, INIT, 1).random((CLASSES, width))
    means, covariance = torch.from_numpy(drawn).float().double(), torch.eye(width).double()

    def priors_of(client):
        labels = data.labels_of(client).tolist()
        shares = [labels.count(c) / len(labels) + EPS for c in range(CLASSES)]
        return torch.tensor(shares, dtype=torch.float64) / sum(shares)

    def with_classifier(row, statistics, client):
        model = module_of(federation, row)
        weight, bias = classifier(*statistics, priors_of(client))
        model.classifier.weight.data, model.classifier.bias.data = weight.float(), bias.float()
        return model

    def adapt(model, client):
        images, labels = data.train(client)
        with torch.no_grad():
            z = model.features(images).double()
        return literal_adapt(z, labels, (means, covariance), priors_of(client), single)[0]

    for number, cohort in enumerate(cohorts, 1):
        uploads = []
        for client in cohort:
            model = with_classifier(row_of(federation, server), (means, covariance), client)
            for parameter in model.classifier.parameters():
                parameter.requires_grad = False
            extractor = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.SGD(extractor, settings.lr, settings.momentum)
            for epoch in batches(federation, client, number):
                for x, y in epoch:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
            uploads.append((row_of(federation, model), *adapt(model, client)))
        shares = weights_of(federation, cohort)
        row, means, covariance = (
            sum(share * upload[k] for share, upload in zip(shares, uploads, strict=True))
            for k in range(3)
        )
        server = module_of(federation, row)

    def tested_model(client):
        row = row_of(federation, server)
        return row_of(federation, with_classifier(row, adapt(server, client), client))

    return row_of(federation, server), means, covariance, tested_model


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices of 512 are factorized faster by one thread, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def after_three_rounds(one_thread):
    federation = tiny_federation()
    method = make("pfedfda", federation)
    play(method)
    return federation, method


def test_pfedfda_is_the_literal_algorithm(after_three_rounds):
    federation, method = after_three_rounds
    server, means, covariance, tested_model = literal_pfedfda(federation, COHORTS)
    body = slice(0, federation.layout.layers["classifier"].start)
    assert same(method.global_params[body], server[body])
    assert same(method.state["means"], means.float())
    assert same(method.state["covariance"], covariance.float())
    clients = [0, 3]
    for client, model in zip(clients, before_training(method, clients), strict=True):
        expected = tested_model(client)
        assert same(model, expected)
        assert same(model[body.stop :], expected[body.stop :])


def test_one_beta_for_both():
    federation = tiny_federation()
    method = make("pfedfda", federation, single_beta=True)
    play(method, COHORTS[:1])
    _, means, covariance, tested_model = literal_pfedfda(federation, COHORTS[:1], single=True)
    assert same(method.state["means"], means.float())
    assert same(method.state["covariance"], covariance.float())
    assert same(before_training(method, [2])[0], tested_model(2))
    two = make("pfedfda", federation)
    play(two, COHORTS[:1])
    assert not same(two.state["covariance"], covariance.float(), 1e-3)


def test_batched_equals_loop(after_three_rounds):
    _, method = after_three_rounds
    other = make("pfedfda", tiny_federation("batched"))
    play(other)
    for name, tensor in method.state.items():
        assert same(other.state[name], tensor, 1e-4)
    assert same(before_training(other, [0, 4]), before_training(method, [0, 4]), 1e-4)


def test_the_classifier_is_not_trained_and_differs_by_priors_alone():
    federation = tiny_federation()
    method = make("pfedfda", federation)
    clients = torch.tensor([0, 2])
    start, personal = method.start(clients)
    wide = method.train(start, clients)
    trained, layout = wide[:, : federation.layout.size], federation.layout
    columns = layout.layers["classifier"]
    assert torch.equal(trained[:, columns], start[:, columns])
    assert (trained[:, : columns.start] != start[:, : columns.start]).any(1).all()
    assert personal[columns].all() and personal.sum() == columns.stop - columns.start
    weights = layout.views(start)["classifier.weight"]
    biases = layout.views(start)["classifier.bias"]
    assert torch.equal(weights[0], weights[1])
    counts = federation.data.class_counts[clients].double()
    priors = counts / counts.sum(1, keepdim=True) + EPS
    priors = priors / priors.sum(1, keepdim=True)
    difference = (priors[0] / priors[1]).log()
    torch.testing.assert_close((biases[0] - biases[1]).double(), difference, atol=1e-4, rtol=0)
    # What is tested is not that classifier.
    for rows in (start, wide):
        models = method.models(rows, clients)
        assert torch.equal(models[:, : columns.start], rows[:, : columns.start])
        assert not torch.allclose(models[:, columns], start[:, columns], rtol=0.01)


def test_looking_at_a_client_changes_nothing(after_three_rounds):
    """There is no state of single clients: one that never took part is treated like any other."""
    _, method = after_three_rounds
    before = {name: tensor.clone() for name, tensor in method.state.items()}
    assert set(before) == {"global", "means", "covariance"}
    first = before_training(method, [3])
    method.models(method.train(method.start(torch.tensor([3]))[0], torch.tensor([3])), [3])
    assert torch.equal(first, before_training(method, [3]))
    assert all(torch.equal(method.state[name], tensor) for name, tensor in before.items())


def test_no_test_sample_is_used(after_three_rounds):
    federation, method = after_three_rounds
    before = before_training(method, [0, 3])
    index = torch.from_numpy(np.concatenate([federation.data.partition.test(i) for i in (0, 3)]))
    images, labels = federation.data.images[index].clone(), federation.data.labels[index].clone()
    federation.data.images[index] = 0
    federation.data.labels[index] = 0
    try:
        assert torch.equal(before_training(method, [0, 3]), before)
    finally:
        federation.data.images[index], federation.data.labels[index] = images, labels


def test_lda_is_the_posterior_of_the_gaussians():
    torch.manual_seed(0)
    means, root = torch.randn(4, 3).double(), torch.randn(3, 3).double()
    covariance = root @ root.T + torch.eye(3)
    priors = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    z = torch.randn(20, 3).double()
    weight, bias = lda(means, covariance, priors.log()[None])
    joint = [
        MultivariateNormal(m, covariance).log_prob(z) + p.log()
        for m, p in zip(means, priors, strict=True)
    ]
    expected = torch.stack(joint, 1).softmax(1)
    torch.testing.assert_close((z @ weight.T + bias).softmax(1), expected)


def sample(generator, labels, centres, spread):
    noise = torch.randn(len(labels), centres.shape[1], generator=generator).double()
    return centres[labels] + spread * noise


def problem(kind):
    """Features and labels, global statistics: own ones better, useless, or something between."""
    generator = torch.Generator().manual_seed(1)
    rand = torch.randn(CLASSES, 6, generator=generator).double()
    count = {"own": 200, "global": 18, "between": 24}[kind]
    labels = torch.arange(count) % CLASSES
    spread = {"own": 0.7, "global": 1.5, "between": 1.2}[kind]
    z = sample(generator, labels, rand, spread)
    away = {"own": -1.0, "global": 1.0, "between": 0.6}[kind]
    means = away * rand if kind != "between" else rand + 0.5 * torch.randn_like(rand)
    return z, labels, (means, torch.eye(6).double() * spread**2)


@pytest.mark.parametrize("kind", ["own", "global", "between"])
def test_betas_are_the_best_on_held_out_folds(kind):
    torch.manual_seed(3)
    estimator = Estimator(folds=2, eps=1e-4, ridge=1.0, single_beta=False)
    z, labels, common = problem(kind)
    priors = torch.full((CLASSES,), 1 / CLASSES).double()
    spectrum = torch.linalg.eigh(estimator.shrink(common[1]))
    ours = estimator.choose_betas(z, labels, common[0], spectrum, priors.log())
    loss = held_out_loss(z, labels, common, priors)
    least = loss(ours)
    grid = np.linspace(0, 1, 21)
    assert all(least <= loss((a, b)) + 1e-9 for a in grid for b in grid)
    if kind == "own":
        assert ours[0] > 0.9
    if kind == "global":
        assert ours[0] < 0.5
    single = replace(estimator, single_beta=True)
    one = single.choose_betas(z, labels, common[0], spectrum, priors.log())
    assert one[0] == one[1]
    assert all(loss(one) <= loss((b, b)) + 1e-9 for b in grid)


def rare_federation(backend):
    """Classes of one or two samples, missing classes, and as few as one sample."""
    clients = [[0, 1, 1] + [2] * 9, [0, 1, 2], [1], [2] * 7, [0] * 2, [1] * 3, [0, 0, 1, 1]]
    labels = np.array([label for client in clients for label in [*client, client[0]]])
    ends = np.cumsum([len(client) + 1 for client in clients])
    train = [np.arange(e - len(c) - 1, e - 1) for e, c in zip(ends, clients, strict=True)]
    sizes = np.cumsum([0, *map(len, clients)])
    partition = Partition(np.concatenate(train), sizes, ends - 1, np.arange(len(ends) + 1))
    images = np.random.default_rng(2).integers(0, 256, (len(labels), *SHAPE), dtype=np.uint8)
    half, device = np.full(1, 0.5, np.float32), torch.device("cpu")
    base = tiny_federation(backend)
    data = ClientData(images, labels, partition, half, half, CLASSES, device, seed=5)
    trainer = Trainer(base.trainer.backend, data, base.trainer.settings)
    return Federation(base.initial, base.layout, data, trainer)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_clients_with_hardly_any_samples(backend):
    federation = rare_federation(backend)
    method = make("pfedfda", federation)
    everyone = torch.arange(7)
    start, _ = method.start(everyone)
    wide = method.train(start, everyone)
    assert wide.isfinite().all() and method.models(start, everyone).isfinite().all()
    _, means, covariance = method.split(wide)
    common, shared = method.state["means"], method.state["covariance"]
    # Rare and missing classes keep the global mean, to the last bit; the common one moves.
    assert torch.equal(means[0, :2], common[:2]) and not torch.equal(means[0, 2], common[2])
    assert torch.equal(means[3, :2], common[:2])
    # Nothing to validate with: the global statistics.
    for client in (1, 2, 4, 5):
        assert torch.equal(means[client], common) and torch.equal(covariance[client], shared)
    play(method, [[1, 4], [2]])
    assert all(tensor.isfinite().all() for tensor in method.state.values())


def test_means_can_be_weighed_by_class():
    federation = tiny_federation()
    averages = {}
    for kind in ("samples", "classes"):
        method = make("pfedfda", federation, mean_weights=kind)
        before = method.state["means"].clone()
        _, trained = play(method, [[0, 1]])[0]
        averages[kind] = method.state["means"]
    means = method.split(trained)[1]
    counts = federation.data.class_counts[:2].float()
    assert counts[:, 0].sum() == 0
    assert torch.equal(averages["classes"][0], before[0])
    for c in (1, 2):
        expected = (counts[0, c] * means[0, c] + counts[1, c] * means[1, c]) / counts[:, c].sum()
        torch.testing.assert_close(averages["classes"][c], expected)
        assert not torch.allclose(averages["samples"][c], expected, rtol=1e-3)


def test_bad_settings_are_refused():
    for values, message in [
        ({"folds": 1}, "at least 2 folds, got 1"),
        ({"eps": 0}, "between 0 and 1"),
        ({"eps": 1.0}, "between 0 and 1"),
        ({"ridge": -1}, "ridge must not be negative"),
        ({"mean_weights": "class"}, "did you mean 'classes'"),
    ]:
        with pytest.raises(UserError, match=message):
            make_settings(METHODS["pfedfda"], values)


def test_betas_are_found_on_the_cpu_wherever_the_models_are(monkeypatch):
    """On as many threads as PyTorch may use; models that lie elsewhere have no numbers here."""
    federation = tiny_federation()
    method = make("pfedfda", federation)
    rows, clients = federation.initial.repeat(4, 1), torch.tensor([0, 1, 2, 4])
    features = federation.trainer.features(rows, clients.tolist())
    expected = method.adapt(rows, clients)
    monkeypatch.setattr(federation.trainer, "features", lambda *_: features)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    used = []

    def on_threads(work, items, threads):
        used.append(threads)
        return map_on_threads(work, items, threads)

    monkeypatch.setattr(pfedfda, "map_on_threads", on_threads)
    adapted = method.adapt(rows.to("meta"), clients)
    assert adapted.device.type == "meta" and adapted.shape == expected.shape
    assert used == [3]
