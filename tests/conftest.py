"""Every test works in a folder of its own, with two threads unless told otherwise."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from helpers.disks import Disks
from helpers.trainers import make_trainer
from hypothesis import settings

from fedobp_lib.data.clients import ClientData
from fedobp_lib.data.partition import dirichlet_partition
from fedobp_lib.training import model_stack
from fedobp_lib.training.trainer import Trainer

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
settings.register_profile("kit", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("kit")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Runs and figures of a test go nowhere else."""
    monkeypatch.setenv("FEDOBP_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FEDOBP_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("FEDOBP_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("FEDOBP_EXECUTED", raising=False)


@pytest.fixture(autouse=True)
def own_threads():
    """A test that changes how many threads there are does not change it for those after it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Unfolded(dict):
    """Says of every size that unfolded convolutions are the fastest."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: object) -> str:
        return "unfolded"


@pytest.fixture(autouse=True)
def no_race_of_convolutions(monkeypatch):
    """The fastest way to compute them is chosen by the clock, and each rounds in its own way."""
    monkeypatch.setattr(model_stack, "_FASTEST", Unfolded())


@pytest.fixture
def disks():
    """Small and read-only file systems; the test is left out where none can be mounted."""
    mounted = Disks()
    yield mounted
    mounted.close()


@pytest.fixture
def small_data() -> ClientData:
    """Four clients with 28x28 images of three classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (120, 28, 28, 1), dtype=np.uint8)
    labels = rng.integers(0, 3, 120)
    partition = dirichlet_partition(labels, 4, 1.0, seed=1)
    mean, std = np.array([0.4], np.float32), np.array([0.3], np.float32)
    return ClientData(images, labels, partition, mean, std, 3, torch.device("cpu"), seed=5)


@pytest.fixture
def small_trainer(small_data) -> Trainer:
    """A loop trainer over `small_data`."""
    return make_trainer(small_data)
