"""What a step of the batched back-end asks of a GPU, traced on a CPU."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

from fedobp_lib.training.convolutions import CONVOLUTIONS

FILE = Path(__file__).parents[2] / "benchmarks" / "operations.py"


@pytest.fixture
def operations(monkeypatch):
    monkeypatch.syspath_prepend(str(FILE.parent))
    spec = importlib.util.spec_from_file_location("operations", FILE)
    module = sys.modules["operations"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_kernels_of_a_step_and_bytes_of_an_update(operations):
    """734 kernels and 14 passes once: a kernel for every image, and a pass for each thought."""
    ten = operations.measure("avgcnn", "cifar10", 10)
    assert ten["kernels"] <= 70
    assert ten["update_passes"] <= 6
    forty = operations.measure("avgcnn", "cifar10", 40)
    assert forty["kernels"] == ten["kernels"]


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_no_operation_that_a_gpu_refuses_or_repeats_for_every_image(
    operations, convolution, monkeypatch
):
    """cuDNN's batch normalization fails in `vmap`; `im2col` starts a kernel for every image."""
    names = Counter()

    class Named(operations.Trace):
        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            names[f.name()] += 1
            return super().__torch_dispatch__(f, types, args, kwargs)

    monkeypatch.setattr(operations, "Trace", Named)
    operations.measure("resnet18", "mnist", 2, convolution)
    assert names["aten::native_batch_norm"] + names["aten::native_batch_norm_backward"] > 0
    refused = ("im2col", "cudnn_batch_norm", "aten::batch_norm", "_batch_norm_impl_index")
    assert not [name for name in names if any(word in name for word in refused)]
