"""Squared gradients from layers' inputs and outputs against a gradient for each sample."""

import pytest
import torch
import torch.nn.functional as F
from helpers.batchnorm import NormNet
from helpers.fisher import squares_one_by_one
from helpers.literal import SHAPE, tiny_federation
from torch import nn

from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training.backends import make_backend
from fedobp_lib.training.fisher import SampleSquares
from fedobp_lib.training.trainer import Question


class OddNet(nn.Module):
    """Layers of every kind: strided, dilated and grouped convolutions, a linear layer on several
    rows of a sample, one that is used twice, one without a bias, a tensor of no layer, and
    normalization by layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, dilation=2)
        self.grouped = nn.Conv2d(6, 6, 3, groups=3)
        self.rows = nn.Linear(4, 5)
        self.twice = nn.Linear(5, 5)
        self.layernorm = nn.LayerNorm(5)
        self.positions = nn.Parameter(torch.randn(5))
        self.norm2 = nn.BatchNorm1d(30)
        self.classifier = nn.Linear(30, 3)

    def features(self, images):
        x = self.norm1(self.conv1(images)).relu_()
        x = self.conv2(x).relu_()
        x = self.grouped(F.pad(x, (0, 2, 0, 2)))
        x = x.flatten(2)[..., :4]
        x = self.twice(self.twice(self.rows(x)).tanh())
        return self.norm2((self.layernorm(x) * self.positions).flatten(1))

    def forward(self, images):
        return self.classifier(self.features(images))


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.classifier = nn.Linear(16, 3)

    def features(self, images):
        return self.second(self.first(images.flatten(1)[:, :16]).relu())

    def forward(self, images):
        return self.classifier(self.features(images))


def resnet():
    return build_model("resnet18", SHAPE, 3, seed=1)


def avgcnn():
    return build_model("avgcnn", SHAPE, 3, seed=1)


NETS = {"avgcnn": avgcnn, "resnet18": resnet, "norm": NormNet, "odd": OddNet, "tied": Tied}


def made(kind):
    """A model, its layout and a row; running statistics as after some training."""
    torch.manual_seed(2)
    model = NETS[kind]()
    layout = ParameterLayout.of(model)
    row = layout.flatten(model)
    row[layout.parameters :] = torch.rand(layout.size - layout.parameters) + 0.5
    return model, layout, row


def close(ours, reference, layout):
    """Every tensor's squares to 1e-4, relative to their size."""
    return all(
        (ours[span] - reference[span]).norm() <= 1e-4 * reference[span].norm()
        for span in layout.spans.values()
        if span.start < layout.parameters
    )


@pytest.mark.parametrize("kind", NETS)
def test_squares_are_those_of_single_samples(kind):
    model, layout, row = made(kind)
    images, labels = torch.randn(7, 1, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2, 2])
    squares = SampleSquares(model.eval(), layout, "fp32").mean(row, images, labels, chunk=3)
    assert close(squares, squares_one_by_one(model, layout, row, images, labels), layout)


@pytest.mark.parametrize("kind", ["avgcnn", "norm"])
def test_no_sample_of_a_known_layer_has_a_gradient_of_its_own(kind, monkeypatch):
    model, layout, row = made(kind)
    monkeypatch.delattr(SampleSquares, "_one_by_one")
    images, labels = torch.randn(3, 1, 16, 16), torch.tensor([0, 1, 2])
    squares = SampleSquares(model.eval(), layout, "fp32").mean(row, images, labels, chunk=2)
    assert (squares > 0).any()


@pytest.mark.parametrize("backend", ["loop", "batched"])
@pytest.mark.parametrize("kind", ["avgcnn", "norm", "resnet18"])
def test_both_back_ends_take_each_client_s_own_samples(kind, backend):
    model, layout, row = made(kind)
    data = tiny_federation().data
    computes = make_backend(backend, model, layout, data.device)
    rows = row * torch.tensor([[1.0], [0.9]])
    found = computes.fisher([Question(rows, data, (4, 1)), Question(rows[:1], data, (2,))])
    assert [len(part) for part in found] == [2, 1]
    for k, client in enumerate((4, 1)):
        images, labels = data.train(client)
        expected = squares_one_by_one(model, layout, rows[k], images.contiguous(), labels)
        assert close(found[0][k], expected, layout)


def test_bf16_is_near_and_leaves_no_hooks_behind():
    model, layout, row = made("avgcnn")
    images, labels = torch.randn(6, 1, 16, 16), torch.tensor([0, 1, 2, 0, 1, 2])
    exact = SampleSquares(model.eval(), layout, "fp32").mean(row, images, labels, chunk=6)
    near = SampleSquares(model.eval(), layout, "bf16").mean(row, images, labels, chunk=6)
    assert not torch.equal(near, exact) and (near - exact).norm() < 0.05 * exact.norm()
    assert not any(module._forward_hooks for module in model.modules())
