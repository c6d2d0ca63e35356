"""Convolutions of many models against one model at a time, and what they are made of."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, vmap

from fedobp_lib.training.convolutions import CONVOLUTIONS, Window, with_convolution

two = st.tuples


@st.composite
def windows_and_images(draw):
    """Any kernel, dilation, padding and stride, and images (K, B, C, H, W) it fits on."""
    sides = {
        name: draw(two(st.integers(low, high), st.integers(low, high)))
        for name, low, high in [("kernel", 1, 3), ("dilation", 1, 2), ("padding", 0, 2)]
    }
    stride = draw(two(st.integers(1, 3), st.integers(1, 3)))
    window = Window(**sides, stride=stride)
    size = draw(two(st.integers(1, 7), st.integers(1, 7)))
    for axis in (0, 1):
        reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1
        assume(size[axis] + 2 * window.padding[axis] >= reach)
    models, images, channels = (draw(st.integers(1, 3)) for _ in range(3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return window, torch.randn(models, images, channels, *size, generator=generator)


@settings(max_examples=60, deadline=None)
@given(windows_and_images())
def test_patches_are_what_unfold_gives_and_fold_is_their_transpose(drawn):
    window, x = drawn
    patches = window.patches(x)
    how = window.kernel, window.dilation, window.padding, window.stride
    wanted = F.unfold(x.flatten(0, 1), *how)  # (images, C * area, places)
    area = window.kernel[0] * window.kernel[1]
    ours = patches.flatten(0, 1).flatten(1, 2).unflatten(2, (area, x.shape[2]))
    assert torch.equal(ours.permute(0, 3, 2, 1).flatten(1, 2), wanted)

    y = torch.randn(patches.shape)
    folded = window.fold(y, x.shape[3:])
    assert folded.shape == x.shape
    assert torch.allclose((patches * y).sum(), (x * folded).sum(), atol=1e-3)


class Two(nn.Module):
    """A convolution of every kind of argument, and one with groups."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, (3, 2), (1, 2), (2, 1), (2, 1), bias=bias)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2, padding="same", bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.grouped(torch.relu(self.first(x)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_values_and_gradients_equal_those_of_one_model_at_a_time(kind, bias):
    torch.manual_seed(0)
    models = [Two(bias) for _ in range(3)]
    images = torch.randn(3, 5, 2, 6, 9, requires_grad=True)
    stacked = {
        name: torch.stack([dict(m.named_parameters())[name].detach() for m in models])
        .requires_grad_()
        for name, _ in models[0].named_parameters()
    }  # fmt: skip
    net = with_convolution(models[0], kind)
    out = vmap(lambda tensors, x: functional_call(net, tensors, (x,)))(stacked, images)
    upstream = torch.randn(out.shape)
    ours = torch.autograd.grad(out, [images, *stacked.values()], upstream)

    wanted = torch.stack([m(x) for m, x in zip(models, images, strict=True)])
    own = [dict(m.named_parameters())[name] for name in stacked for m in models]
    of_images, *flat = torch.autograd.grad(wanted, [images, *own], upstream)
    assert torch.allclose(out, wanted, atol=1e-5)
    assert torch.allclose(ours[0], of_images, atol=1e-5)
    for number, gradient in enumerate(ours[1:]):
        assert torch.allclose(gradient, torch.stack(flat[3 * number : 3 * number + 3]), atol=1e-4)
