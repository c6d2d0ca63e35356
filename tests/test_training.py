"""The loop back-end against plain PyTorch: an ordinary module and `torch.optim.SGD`."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedobp_lib.clients import FINE_TUNE, TRAIN, ClientData
from fedobp_lib.errors import UserError
from fedobp_lib.evaluation import evaluate
from fedobp_lib.models import build_model
from fedobp_lib.parameters import ParameterLayout
from fedobp_lib.partition import Partition
from fedobp_lib.training import LocalSettings, LoopTrainer


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


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_fit_equals_torch_sgd_on_an_ordinary_module(small_data, momentum):
    model = build_model("avgcnn", (28, 28, 1), 3, seed=0)
    layout = ParameterLayout.of(model)
    rows = torch.stack(
        [layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=s)) for s in (1, 2)]
    )
    settings = LocalSettings(epochs=3, batch_size=8, lr=0.05, momentum=momentum)
    before = rows.clone()
    trained = LoopTrainer(model, layout, small_data, settings).fit(rows, [0, 2], round_=4)
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


def test_the_number_of_workers_changes_nothing_and_leaves_the_threads_alone(small_trainer):
    row = small_trainer.layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=3))
    rows, clients = row.repeat(4, 1), [2, 0, 3, 1]
    torch.set_num_threads(1)
    one = small_trainer.fit(rows, clients, 1)
    torch.set_num_threads(2)
    two = small_trainer.fit(rows, clients, 1)
    assert torch.get_num_threads() == 2
    assert torch.equal(one, two)


def test_a_fault_in_a_worker_is_raised_and_the_trainer_goes_on(small_trainer):
    row = small_trainer.layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=3))
    rows = row.repeat(4, 1)

    def broken(worker, k, client):
        raise ZeroDivisionError(client)

    with pytest.raises(ZeroDivisionError):
        small_trainer.each(rows, range(4), broken)
    seen = []
    small_trainer.each(rows, range(4), lambda worker, k, client: seen.append((k, client)))
    assert sorted(seen) == [(k, k) for k in range(4)]


def test_gradient_is_that_of_the_mean_loss_over_all_samples(small_trainer, small_data):
    layout = small_trainer.layout
    row = layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=3))
    ours = small_trainer.gradient(row[None], [1], chunk=7)[0]
    plain = plain_copy(layout, row, PaperCNN(1, 1024, 3))
    images, labels = small_data.train(1)
    F.cross_entropy(plain(images.contiguous()), labels).backward()
    for name, tensor in layout.views(ours).items():
        torch.testing.assert_close(tensor, plain.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def test_evaluation_counts_every_test_sample(small_trainer, small_data):
    layout = small_trainer.layout
    rows = torch.stack(
        [layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=s)) for s in range(4)]
    )
    scores = evaluate(small_trainer, rows, range(4), chunk=3)
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


@pytest.mark.parametrize(
    ("shape", "classes", "count"),
    [
        ((32, 32, 3), 10, 878_538),
        ((32, 32, 3), 100, 924_708),
        ((28, 28, 1), 10, 582_026),
        ((28, 28, 1), 11, 582_539),
        ((28, 28, 1), 62, 608_702),
    ],
)
def test_avgcnn_parameter_counts(shape, classes, count):
    layout = ParameterLayout.of(build_model("avgcnn", shape, classes, seed=0))
    assert layout.parameters == layout.size == count
    assert list(layout.layers) == ["conv1", "conv2", "fc1", "classifier"]
    sizes = [s.stop - s.start for s in layout.layers.values()]
    assert sum(sizes) == count and sizes[-1] == 513 * classes


def test_a_row_and_its_model_are_one():
    """Flatten, bind and views agree, also for the channels-last convolution weights."""
    source = build_model("avgcnn", (28, 28, 1), 10, seed=1)
    layout = ParameterLayout.of(source)
    row = layout.flatten(source)
    other = build_model("avgcnn", (28, 28, 1), 10, seed=2)
    layout.bind(other, row)
    for name, parameter in source.named_parameters():
        assert torch.equal(other.get_parameter(name), parameter)
    row[layout.spans["conv2.weight"]] = 7
    assert (other.conv2.weight == 7).all() and not (other.conv1.weight == 7).any()
    with torch.no_grad():
        other.classifier.bias.fill_(3)
    assert (row[layout.spans["classifier.bias"]] == 3).all()


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build_model("avgcnn", (28, 28, 1), 10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    again, other = (build_model("avgcnn", (28, 28, 1), 10, seed=s) for s in (1, 2))
    assert torch.equal(first.fc1.weight, again.fc1.weight)
    assert not torch.equal(first.fc1.weight, other.fc1.weight)


def test_resnet18_trains_with_its_buffers_in_the_row():
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
    trainer = LoopTrainer(model, layout, data, LocalSettings(epochs=1, batch_size=8))
    start = layout.flatten(build_model("resnet18", (28, 28, 1), 3, seed=4))[None]
    trained = trainer.fit(start, [0], 1)
    buffers = slice(layout.parameters, layout.size)
    assert torch.isfinite(trained).all()
    assert not torch.equal(trained[:, buffers], start[:, buffers])
    evaluate(trainer, trained, [0])
    assert torch.equal(trainer.fit(start, [0], 1), trained)


def test_models_refuse_what_they_cannot_do():
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        build_model("resnet-18", (28, 28, 1), 10, seed=0)
    with pytest.raises(UserError, match="16x16"):
        build_model("avgcnn", (8, 8, 1), 10, seed=0)
    with pytest.raises(UserError, match="pretrained"):
        build_model("avgcnn", (28, 28, 1), 10, seed=0, pretrained=True)
