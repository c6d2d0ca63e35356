"""How many FLOPs an operation on tensors is, when no network computes it.

| operation | FLOPs |
|---|---|
| views, copies, picking and placing (`index`, `gather`, `cat`), filling, drawing numbers | 0 |
| any other, element by element (`sub`, `abs`, `sign`, `mul`, `where`, `>`) | 1 an element |
| `lerp` 3, `addcmul` and `addcdiv` 3, `softmax` 5 | an element |
| sums, means, extremes, `any`, `count_nonzero` 1; norms 2; variances 4 | an element summed |
| `topk`, `kthvalue`: selection in linear time, the order of the rest is not needed | 2 an element |
| `sort`, `argsort`: comparisons | log2 n an element |
| matrix products: as `torch.utils.flop_counter` has them | 2 a multiply-add |
| Cholesky n^3 / 3, solving n x n for m columns 2 n^2 m (LU: + 2 n^3 / 3), eigenvectors 9 n^3 | |
| `pdist` | 3 an element and pair |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FREE = _words(
    """_to_copy _local_scalar_dense arange argwhere bernoulli cat clone copy copy_ empty empty_like
    empty_strided eye fill fill_ full full_like gather index index_copy index_fill index_put
    index_put_ index_select is_pinned lift_fresh masked_select new_empty new_empty_strided new_full
    new_ones new_zeros nonzero normal normal_ ones ones_like one_hot rand randn random_ randperm
    repeat resize_ roll scalar_tensor scatter scatter_ flip set_ stack tril_indices uniform_
    zero zero_ zeros zeros_like _pin_memory constant_pad_nd _efficientzerotensor diag_embed
    _unsafe_view squeeze_ unsqueeze_ transpose_ t_ select_backward slice_backward"""
)  # fmt: skip

# Comparing and choosing: what makes a threshold, a mask and a merged model of scores.
SELECTION = _words(
    """argmax argmin argsort bitwise_and bitwise_not bitwise_or bitwise_xor bucketize eq equal ge
    gt isin kthvalue le logical_and logical_not logical_or logical_xor lt masked_fill masked_fill_
    ne sort topk where count_nonzero all any"""
)  # fmt: skip

ELEMENT = {"lerp": 3, "lerp_": 3, "addcmul": 3, "addcmul_": 3, "addcdiv": 3, "addcdiv_": 3,
           "_softmax": 5, "_log_softmax": 5}  # fmt: skip

SUMMED = {"sum": 1, "mean": 1, "amin": 1, "amax": 1, "max": 1, "min": 1, "argmax": 1, "argmin": 1,
          "any": 1, "all": 1, "cumsum": 1, "count_nonzero": 1, "bincount": 1, "prod": 1,
          "aminmax": 2, "norm": 2, "linalg_vector_norm": 2, "var": 4, "std": 4, "var_mean": 4,
          "topk": 2, "kthvalue": 2}  # fmt: skip


def flops(operation: torch._ops.OpOverload, args: tuple[Any, ...], result: Any) -> float:
    """FLOPs of one operation, by the table above.

    Args:
        operation: such as `torch.ops.aten.add.Tensor`.
        args: what it was given.
        result: what it gave.
    """
    packet = operation.overloadpacket
    name = packet.__name__
    if packet in flop_registry:
        return float(flop_registry[packet](*args, out_val=result))
    if name in FREE or _is_view(operation):
        return 0.0
    tensors = [a for a in args if isinstance(a, Tensor)]
    if name in SUMMED and len(tensors) == 1:
        return float(SUMMED[name] * tensors[0].numel())
    if name in ("sort", "argsort"):
        x, axis = tensors[0], _axis(args)
        return x.numel() * math.log2(max(x.shape[axis], 2))
    if tensors and name in ALGEBRA:
        return float(ALGEBRA[name](*tensors))
    first = result[0] if isinstance(result, tuple | list) and result else result
    return float(ELEMENT.get(name, 1) * first.numel()) if isinstance(first, Tensor) else 0.0


def _axis(args: tuple[Any, ...]) -> int:
    whole = [a for a in args[1:] if isinstance(a, int) and not isinstance(a, bool)]
    return whole[0] if whole else -1


def _cube(x: Tensor, times: float) -> float:
    """Of square matrices (..., n, n)."""
    return times * x.numel() * x.shape[-1]


ALGEBRA: dict[str, Callable[..., float]] = {
    "mv": lambda a, b: 2 * a.numel(),
    "addmv": lambda a, b, c: 2 * b.numel(),
    "dot": lambda a, b: 2 * a.numel(),
    "linalg_cholesky_ex": lambda a: _cube(a, 1 / 3),
    "cholesky_solve": lambda b, a: 2 * b.numel() * a.shape[-1],
    "linalg_solve_triangular": lambda a, b: b.numel() * a.shape[-1],
    "_linalg_solve_ex": lambda a, b: _cube(a, 2 / 3) + 2 * b.numel() * a.shape[-1],
    "linalg_lu_solve": lambda a, pivots, b: 2 * b.numel() * a.shape[-1],
    "_linalg_eigh": lambda a: _cube(a, 9),
    "_pdist_forward": lambda a: 3 * a.shape[1] * len(a) * (len(a) - 1) / 2,
}


def _is_view(operation: torch._ops.OpOverload) -> bool:
    returns = operation._schema.returns
    return any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
