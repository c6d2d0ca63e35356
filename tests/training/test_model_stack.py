"""The choice of a way to compute convolutions, and the running statistics of many models."""

import pytest
import torch
from helpers.literal import tiny_federation

from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training import model_stack
from fedobp_lib.training.convolutions import CONVOLUTIONS
from fedobp_lib.training.model_stack import ModelStack
from fedobp_lib.training.recording import Recorder


@pytest.fixture
def stack(monkeypatch):
    """That of a back-end which has not chosen yet, with the images of its clients."""
    monkeypatch.setattr(model_stack, "_FASTEST", {})
    federation = tiny_federation("batched")
    stack = federation.trainer.backend.stack
    stack.convolution = None
    return stack, federation.data


def test_the_fastest_way_that_works_is_taken(stack, monkeypatch):
    stack, data = stack
    seconds = {"grouped": None, "unfolded": 2.0, "each": 1.0}

    def measured(*_):
        if seconds[stack.convolution] is None:
            raise RuntimeError(f"{stack.convolution} is not there")
        return seconds[stack.convolution]

    monkeypatch.setattr(stack, "_seconds", measured)
    stack.choose_convolution(data, 8, 4, graphs=False)
    assert stack.convolution == "each"
    seconds |= {"unfolded": 0.5}
    stack.choose_convolution(data, 8, 4, graphs=False)
    assert stack.convolution == "each"  # measured once
    stack.choose_convolution(data, 8, 5, graphs=False)
    assert stack.convolution == "unfolded"  # of another size
    seconds |= dict.fromkeys(CONVOLUTIONS)
    with pytest.raises(RuntimeError, match="is not there"):
        stack.choose_convolution(data, 8, 6, graphs=False)


def test_replays_are_timed_at_the_cohorts_size_where_steps_are_replayed(stack, monkeypatch):
    stack, data = stack
    replayed, shapes = [], set()
    gradient = stack.gradient

    def seen(rows, images, *args, **kwargs):
        shapes.add((len(rows), *images.shape[:2]))
        return gradient(rows, images, *args, **kwargs)

    def record(self, steps):
        return lambda: replayed.append(steps())

    monkeypatch.setattr(stack, "gradient", seen)
    monkeypatch.setattr(Recorder, "record", record)
    stack.choose_convolution(data, 8, 4, graphs=True)
    assert stack.convolution in CONVOLUTIONS
    assert shapes == {(4, 4, 8)}
    assert len(replayed) >= 3 * len(CONVOLUTIONS)
    assert all(isinstance(rows, torch.Tensor) for rows in replayed)


def test_running_statistics_of_several_models_are_those_of_each_alone():
    """`vmap` loses them where the statistics of a model do not lie beside those of the next."""
    net = build_model("resnet18", (16, 16, 1), 3, seed=0)
    layout = ParameterLayout.of(net)
    stack = ModelStack(net, layout, torch.device("cpu"), "fp32", "unfolded")
    images = torch.rand(3, 6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = layout.flatten(net).detach().repeat(3, 1)
    stack.gradient(rows, images, torch.zeros(3, 6, dtype=torch.int64), torch.ones(3, 6), True)
    for row, batch in zip(rows, images, strict=True):
        alone = build_model("resnet18", (16, 16, 1), 3, seed=0).train()
        alone(batch)
        torch.testing.assert_close(row, layout.flatten(alone).detach(), rtol=1e-4, atol=1e-6)
