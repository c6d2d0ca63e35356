"""The small federation that the methods play in."""

import pytest

from fedobp_lib.methods import Federation
from fedobp_lib.models.networks import build_model


@pytest.fixture
def federation(small_data, small_trainer) -> Federation:
    layout = small_trainer.layout
    initial = layout.flatten(build_model("avgcnn", (28, 28, 1), 3, seed=7))
    return Federation(initial, layout, small_data, small_trainer, quantile=0.999)
