"""One step of SGD on rows, fused, against the optimizer of PyTorch and plain arithmetic."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from fedobp_lib.training.update import update


def literal(variables, velocity, direction, mask, lr, momentum):
    """Element by element, in double precision."""
    wanted = variables.double().clone(), velocity.double().clone()
    for k in range(len(variables)):
        for d in range(variables.shape[1]):
            if mask is None or bool(mask[d] if mask.ndim == 1 else mask[k, d]):
                v = float(momentum[k]) * float(velocity[k, d]) + float(direction[k, d])
                wanted[1][k, d] = v
                wanted[0][k, d] = float(variables[k, d]) - float(lr[k]) * v
    return wanted


def rows_and_rates(shape, seed, masked):
    """Rows that are part of wider ones, as those of active clients are."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = shape
    wide = torch.randn(3, rows, columns + 3, generator=draw)
    mask = {
        "none": None,
        "shared": torch.rand(columns, generator=draw) < 0.5,
        "own": (torch.rand(rows, columns + 2, generator=draw) < 0.5)[:, 1:-1],
    }[masked]
    lr, momentum = torch.rand(2, rows, 1, generator=draw)
    return *(part[:, 2:-1] for part in wide), mask, lr, momentum


@settings(max_examples=40, deadline=None)
@given(
    shape=array_shapes(min_dims=2, max_dims=2, max_side=6),
    seed=st.integers(0, 999),
    masked=st.sampled_from(["none", "shared", "own"]),
)
def test_a_step_moves_what_the_mask_allows_and_nothing_else(shape, seed, masked):
    variables, velocity, direction, mask, lr, momentum = rows_and_rates(shape, seed, masked)
    wanted = literal(variables, velocity, direction, mask, lr, momentum)
    kept = direction.clone()
    update(variables, velocity, direction, mask, lr, momentum)
    assert torch.allclose(variables.double(), wanted[0], atol=1e-6)
    assert torch.allclose(velocity.double(), wanted[1], atol=1e-6)
    assert torch.equal(direction, kept)


def test_steps_equal_torch_sgd():
    parameter = torch.nn.Parameter(torch.randn(50))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.7)
    row, velocity = parameter.detach().clone()[None], torch.zeros(1, 50)
    rate, momentum = torch.tensor([[0.1]]), torch.tensor([[0.7]])
    for _ in range(4):
        parameter.grad = torch.randn(50)
        update(row, velocity, parameter.grad[None], None, rate, momentum)
        optimizer.step()
    assert torch.allclose(row[0], parameter, atol=1e-6)


INTERPRETED = """
import sys
sys.path.insert(0, "tests/training")
from fedobp_lib.training.update import fused_update
from test_update import literal, rows_and_rates

for shape in ((1, 1), (3, 40), (2, 32), (4, 33)):
    for masked in ("none", "shared", "own"):
        rows = rows_and_rates(shape, 5, masked)
        wanted = literal(*rows)
        fused_update(*rows, block=16)
        for ours, right in zip(rows, wanted):
            assert abs(ours.double() - right).max() < 1e-6, (shape, masked)
print("equal")
"""


def test_the_kernel_for_gpus_by_tritons_interpreter(monkeypatch):
    """Blocks that end within, at and after the end of a row."""
    pytest.importorskip("triton")
    # Triton decides when it is imported, so this takes a process of its own.
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], capture_output=True, text=True, check=False
    )
    assert done.stdout == "equal\n", done.stderr
