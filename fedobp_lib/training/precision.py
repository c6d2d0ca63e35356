"""Precisions of the forward and backward pass; everything else is computed in fp32."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

PRECISIONS = ("fp32", "tf32", "bf16")


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 for what tolerates it, if asked for.

    Weights change between two steps, so their rounded copies must not be cached.
    """
    enabled = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


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
