"""The loop back-end against plain PyTorch: an ordinary module and `torch.optim.SGD`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.batchnorm import NormNet, normalized_federation
from helpers.trainers import make_trainer
from torch import nn

from fedobp_lib.data.clients import FINE_TUNE, TRAIN, ClientData
from fedobp_lib.data.partition import Partition
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training.backends import make_backend
from fedobp_lib.training.evaluation import evaluate
from fedobp_lib.training.tasks import Task
from fedobp_lib.training.trainer import LocalSettings, Question, Trainer


class PaperCNN(nn.Module):
    """Table 3 as printed: convolution, ReLU, pool. Names are the kit's, to copy weights."""

    def __init__(self, channels, features, classes):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 32, 5), nn.Conv2d(32, 64, 5)
        self.fc1, self.classifier = nn.Linear(features, 512), nn.Linear(512, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.classifier(F.relu(self.fc1(torch.flatten(x, 1))))


def plain_copy(layout: ParameterLayout, row: torch.Tensor, model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, tensor in layout.views(row).items():
            model.get_parameter(name).copy_(tensor)
    return model


@pytest.mark.parametrize("backend", ["loop", "batched"])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_fit_equals_torch_sgd_on_an_ordinary_module(small_data, momentum, backend):
    trainer = make_trainer(small_data, backend, epochs=3, lr=0.05, momentum=momentum)
    layout = trainer.layout
    rows = torch.stack(
        [layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=s)) for s in (1, 2)]
    )
    before = rows.clone()
    trained = trainer.fit(rows, [0, 2], round_=4)
    assert torch.equal(rows, before)

    for k, client in enumerate([0, 2]):
        plain = plain_copy(layout, rows[k], PaperCNN(1, 1024, 3))
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=momentum)
        index = small_data.partition.train(client)
        images = (small_data.images[index].permute(0, 3, 1, 2) / 255 - 0.4) / 0.3
        labels = small_data.labels[index]
        for order in small_data.orders(client, 4, TRAIN, 3):
            for start in range(0, len(order), 8):
                batch = order[start : start + 8]
                optimizer.zero_grad()
                F.cross_entropy(plain(images[batch]), labels[batch]).backward()
                optimizer.step()
        for name, tensor in layout.views(trained[k]).items():
            torch.testing.assert_close(tensor, plain.get_parameter(name).data, rtol=1e-4, atol=1e-6)
        assert (trained[k] - rows[k]).abs().max() > 1e-3


def test_batch_order_depends_on_seed_round_client_and_purpose_alone(small_data):
    def first(client=0, round_=1, purpose=TRAIN):
        return next(small_data.orders(client, round_, purpose, 1)).tolist()

    torch.manual_seed(1)
    once = first()
    torch.manual_seed(2)
    np.random.seed(3)
    assert first() == once
    assert sorted(once) == list(range(len(once)))
    assert once not in (first(round_=2), first(purpose=FINE_TUNE))
    two = list(small_data.orders(0, 1, TRAIN, 2))
    assert two[0].tolist() == once and two[1].tolist() != once


def test_a_client_is_trained_alike_alone_and_in_a_cohort(small_trainer):
    row = small_trainer.layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=3))
    together = small_trainer.fit(row.repeat(3, 1), [0, 1, 3], 1)
    alone = small_trainer.fit(row[None], [3], 1)
    assert torch.equal(together[2], alone[0])
    assert not torch.equal(together[0], together[1])


def test_the_number_of_workers_changes_nothing_and_leaves_the_threads_alone(small_data):
    torch.set_num_threads(1)
    alone = make_trainer(small_data)
    torch.set_num_threads(2)
    both = make_trainer(small_data)
    row = alone.layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=3))
    rows, clients = row.repeat(4, 1), [2, 0, 3, 1]
    one, two = alone.fit(rows, clients, 1), both.fit(rows, clients, 1)
    assert torch.get_num_threads() == 2
    assert torch.equal(one, two)


def test_a_fault_in_a_worker_is_raised_and_the_trainer_goes_on(small_trainer):
    row = small_trainer.layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=3))
    rows = row.repeat(4, 1)

    before = small_trainer.fit(rows, range(4), 1)

    class Broken(Task):
        def direction(self, variables, given, phase, gradient, draw):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        small_trainer.fit(Broken(rows), range(4), 1)
    assert torch.equal(small_trainer.fit(rows, range(4), 1), before)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_gradient_is_that_of_the_mean_loss_over_all_samples(small_data, backend):
    trainer = make_trainer(small_data, backend)
    layout = trainer.layout
    row = layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=3))
    asked = Question(row.repeat(2, 1), small_data, (3, 1))
    ours = trainer.backend.gradient([asked], chunk=7)[0][1]
    plain = plain_copy(layout, row, PaperCNN(1, 1024, 3))
    images, labels = small_data.train(1)
    F.cross_entropy(plain(images.contiguous()), labels).backward()
    for name, tensor in layout.views(ours).items():
        torch.testing.assert_close(tensor, plain.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_what_models_say_about_training_samples_one_by_one(small_data, backend):
    """Fisher values, features and losses of two clients against an ordinary module."""
    trainer = make_trainer(small_data, backend)
    layout, computes = trainer.layout, trainer.backend
    rows = torch.stack(
        [layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=s)) for s in (3, 4)]
    )
    clients = (3, 1)
    asked = Question(rows, small_data, clients)
    fisher = computes.fisher([asked], chunk=4)[0]
    features = computes.features([asked], chunk=5)[0]
    losses = trainer.losses(rows, clients)
    for k, client in enumerate(clients):
        plain = plain_copy(layout, rows[k], PaperCNN(1, 1024, 3))
        images, labels = small_data.train(client)
        squares = {name: torch.zeros_like(p) for name, p in plain.named_parameters()}
        for x, y in zip(images.contiguous().split(1), labels.split(1), strict=True):
            plain.zero_grad()
            F.cross_entropy(plain(x), y).backward()
            for name, p in plain.named_parameters():
                squares[name] += p.grad**2 / len(labels)
        for name, tensor in layout.views(fisher[k]).items():
            torch.testing.assert_close(tensor, squares[name], rtol=1e-3, atol=1e-8)
        logits = plain.classifier(features[k])
        torch.testing.assert_close(logits, plain(images.contiguous()), rtol=1e-4, atol=1e-5)
        assert losses[k].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
        assert torch.equal(small_data.labels_of(client), labels)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_a_share_of_the_samples(small_data, backend):
    """The same part in every epoch, another one in every round; the rest is never seen."""
    counts = [len(small_data.partition.train(i)) for i in range(4)]
    first = [set(order.tolist()) for order in small_data.orders(0, 1, TRAIN, 3, share=0.5)]
    assert len(first[0]) == counts[0] // 2 and first[0] == first[1] == first[2]
    assert first[0] != set(next(small_data.orders(0, 2, TRAIN, 1, share=0.5)).tolist())

    trainer = make_trainer(small_data, backend)
    row = trainer.layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=3))
    part = np.sort(list(first[0]))
    seen = small_data.partition.train(0)[part]
    before = trainer.fit(row[None], [0], 1, share=0.5, epochs=1)
    saved = small_data.images.clone()
    unseen = np.setdiff1d(small_data.partition.train(0), seen)
    small_data.images[torch.from_numpy(unseen)] = 0
    assert torch.equal(trainer.fit(row[None], [0], 1, share=0.5, epochs=1), before)
    small_data.images.copy_(saved)
    small_data.images[torch.from_numpy(seen)] = 0
    assert not torch.equal(trainer.fit(row[None], [0], 1, share=0.5, epochs=1), before)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_evaluation_counts_every_test_sample(small_data, backend, monkeypatch):
    trainer = make_trainer(small_data, backend)
    layout = trainer.layout
    test = trainer.backend.test
    monkeypatch.setattr(trainer.backend, "test", lambda asked: test(asked, chunk=3))
    rows = torch.stack(
        [layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=s)) for s in range(4)]
    )
    scores = evaluate(trainer, rows, range(4))
    right, losses = [], []
    for client in range(4):
        plain = plain_copy(layout, rows[client], PaperCNN(1, 1024, 3))
        images, labels = small_data.test(client)
        logits = plain(images.contiguous())
        right.append(int((logits.argmax(1) == labels).sum()))
        losses.append(F.cross_entropy(logits, labels, reduction="sum").item())
    sizes = np.diff(small_data.partition.test_offsets)
    assert scores.correct.tolist() == right and scores.samples.tolist() == sizes.tolist()
    summary = scores.summary()
    assert summary["pooled"][0] == pytest.approx(100 * sum(right) / sizes.sum())
    assert summary["client_mean"][0] == pytest.approx(100 * np.mean(np.array(right) / sizes))
    assert summary["pooled"][1] == pytest.approx(sum(losses) / sizes.sum(), rel=1e-5)
    assert summary["client_mean"][1] == pytest.approx(np.mean(losses / sizes), rel=1e-5)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_resnet18_trains_with_its_buffers_in_the_row(backend):
    """Running statistics move with training and travel in the row; a batch of one is skipped."""
    model = build_model("resnet18", (28, 28, 1), 3, seed=0)
    layout = ParameterLayout.of(model)
    assert layout.parameters == 11_176_512 + 513 * 3
    assert layout.size - layout.parameters == 2 * 4_800
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (13, 28, 28, 1), dtype=np.uint8)
    split = Partition(np.arange(9), np.array([0, 9]), np.arange(9, 13), np.array([0, 4]))
    mean, std = np.array([0.5], np.float32), np.array([0.5], np.float32)
    data = ClientData(
        images, rng.integers(0, 3, 13), split, mean, std, 3, torch.device("cpu"), seed=0
    )
    made = make_backend(backend, model, layout, data.device)
    trainer = Trainer(made, data, LocalSettings(epochs=1, batch_size=8))
    start = layout.flatten(build_model("resnet18", (28, 28, 1), 3, seed=4))[None]
    trained = trainer.fit(start, [0], 1)
    buffers = slice(layout.parameters, layout.size)
    assert torch.isfinite(trained).all()
    assert not torch.equal(trained[:, buffers], start[:, buffers])
    evaluate(trainer, trained, [0])
    assert torch.equal(trainer.fit(start, [0], 1), trained)


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_gradients_of_a_model_with_running_statistics(backend):
    federation = normalized_federation(backend)
    layout, data = federation.layout, federation.data
    rows = federation.initial.repeat(2, 1)
    found = federation.trainer.gradient(rows, [0, 1])
    assert found.shape == (2, layout.parameters)
    for k in range(2):
        model = NormNet().eval()
        layout.bind(model, rows[k].clone())
        images, labels = data.train(k)
        loss = F.cross_entropy(model(images), labels)
        expected = layout.join(list(torch.autograd.grad(loss, list(model.parameters()))))
        torch.testing.assert_close(found[k], expected, rtol=1e-4, atol=1e-6)
