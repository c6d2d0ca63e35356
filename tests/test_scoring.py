"""Scores and their averages, one parameter at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.scoring import moving_average, normalize, saliency_score


def test_saliency_is_the_difference_times_the_parameter():
    local, server = torch.tensor([2.0, -3.0, 0.0]), torch.tensor([1.0, 1.0, 5.0])
    assert saliency_score(local, server).tolist() == [2.0, 12.0, 0.0]


@given(
    st.lists(st.floats(0, 10, width=32), min_size=1, max_size=6),
    st.floats(0, 0.9375, width=32),
)
def test_moving_average_against_a_loop(scores, keep):
    average, known = torch.zeros(1, 1), torch.tensor([False])
    slow = None
    for score in scores:
        average = moving_average(torch.tensor([[score]]), average, known, keep)
        known = torch.tensor([True])
        slow = score if slow is None else (1 - keep) * score + keep * slow
    assert average.item() == pytest.approx(slow, rel=1e-5, abs=1e-6)


def test_tensors_are_scaled_each_by_itself():
    layout = ParameterLayout.of(build_model("avgcnn", (16, 16, 1), 3, seed=0))
    scores = torch.rand(2, layout.parameters, generator=torch.Generator().manual_seed(0))
    scaled = normalize(scores, layout, "tensor")
    for span in layout.spans.values():
        part = scores[:, span]
        low, high = part.min(1, keepdim=True).values, part.max(1, keepdim=True).values
        torch.testing.assert_close(scaled[:, span], (part - low) / (high - low))
    # A layer's weight and bias share a scale in `layer`, not here.
    assert not torch.equal(scaled, normalize(scores, layout, "layer"))
