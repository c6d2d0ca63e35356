"""One step of SGD on the rows of many clients, in as few passes over the memory as can be.

On a GPU a kernel of our own reads the gradient, velocity and variables once and writes the latter
two: five passes. Elsewhere, and where Triton cannot compile it, two fused PyTorch operations take
six (with a mask more).
"""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor

from .tasks import sgd_step

try:
    import triton
    import triton.language as tl
except ImportError:  # not on every platform
    triton = None


def update(
    variables: Tensor,
    velocity: Tensor,
    direction: Tensor,
    mask: Tensor | None,
    lr: Tensor,
    momentum: Tensor,
) -> None:
    """`tasks.sgd_step` for rows (K, D) in place: by one kernel on a GPU.

    Args:
        variables, velocity: float32 (K, D), changed where `mask` holds.
        direction: (K, D), the gradient.
        mask: bool, (D,) or (K, D); None: everywhere.
        lr, momentum: (K, 1).
    """
    if variables.is_cuda and _compiles(variables.device):
        fused_update(variables, velocity, direction, mask, lr, momentum)
    elif mask is None:
        torch.addcmul(direction, velocity, momentum, out=velocity)
        variables.addcmul_(velocity, lr, value=-1)
    else:
        sgd_step(variables, velocity, direction, mask, lr, momentum)


def fused_update(
    variables: Tensor,
    velocity: Tensor,
    direction: Tensor,
    mask: Tensor | None,
    lr: Tensor,
    momentum: Tensor,
    block: int = 1024,
) -> None:
    """`update` by the kernel; arguments as there.

    Args:
        block: columns of a program.
    """
    rows, columns = variables.shape
    grid = (-(-columns // block), rows)
    given = velocity if mask is None else mask.view(torch.uint8)
    _sgd[grid](
        variables, velocity, direction, given, lr, momentum, columns,
        variables.stride(0), velocity.stride(0), direction.stride(0),
        0 if mask is None or mask.ndim == 1 else mask.stride(0),
        lr.stride(0), momentum.stride(0),
        MASKED=mask is not None, BLOCK=block,
    )  # fmt: skip


@cache
def _compiles(device: torch.device) -> bool:
    """Whether Triton can compile for this GPU; if not, it is said once."""
    if triton is None:
        return False
    try:
        with torch.cuda.device(device):
            row = torch.zeros(1, 1, device=device)
            fused_update(row, row.clone(), row.clone(), None, row.clone(), row.clone())
    except Exception as error:  # of many kinds: no C compiler, no ptxas, an unknown GPU
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"SGD runs without a fused kernel, so a little slower: {reason}", file=sys.stderr)
        return False
    return True


if triton is not None:

    @triton.jit
    def _sgd(
        variables, velocity, direction, mask, lr, momentum, columns,
        of_variables, of_velocity, of_direction, of_mask, of_lr, of_momentum,
        MASKED: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(1).to(tl.int64)
        column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        moves = column < columns
        if MASKED:
            moves = moves & (tl.load(mask + row * of_mask + column, moves, 0) != 0)
        x = tl.load(variables + row * of_variables + column, moves)
        v = tl.load(velocity + row * of_velocity + column, moves)
        d = tl.load(direction + row * of_direction + column, moves)
        v = tl.load(momentum + row * of_momentum) * v + d
        tl.store(velocity + row * of_velocity + column, v, moves)
        tl.store(variables + row * of_variables + column, x - tl.load(lr + row * of_lr) * v, moves)
