"""The two networks: sizes, seeds, and a model that lives in a row."""

import pytest
import torch

from fedobp_lib.errors import UserError
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout


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


def test_models_refuse_what_they_cannot_do():
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        build_model("resnet-18", (28, 28, 1), 10, seed=0)
    with pytest.raises(UserError, match="16x16"):
        build_model("avgcnn", (8, 8, 1), 10, seed=0)
    with pytest.raises(UserError, match="pretrained"):
        build_model("avgcnn", (28, 28, 1), 10, seed=0, pretrained=True)
