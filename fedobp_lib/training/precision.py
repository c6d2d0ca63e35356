"""Precisions of the forward and backward pass; everything else is computed in fp32."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

PRECISIONS = ("fp32", "tf32", "bf16")
AUTO = "auto"  # in place of a precision: `best_precision`


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 for what tolerates it, if asked for.

    Weights change between two steps, so their rounded copies must not be cached.
    """
    enabled = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def best_precision(device: torch.device) -> str:
    """`bf16` where the device computes in it natively, else `fp32`.

    A CPU by its instructions, a GPU from compute capability 8 (Ampere) on.
    """
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = bf16_is_native()
    return "bf16" if native else "fp32"


def rounded_to(device: torch.device) -> torch.dtype | None:
    """The type that autocast computes in here and now; None: it is off."""
    kind = device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None


def bf16_is_native() -> bool:
    """Whether the CPU has bf16 instructions (AVX512-BF16 or AMX); True if PyTorch cannot tell."""
    asks = [
        getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")
    ]
    return any(ask is None or ask() for ask in asks)
