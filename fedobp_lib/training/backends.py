"""Choosing the device and the back-end."""

from __future__ import annotations

import sys

import torch

from .. import forks
from ..errors import UserError, unknown
from ..models.networks import ImageModel
from ..models.parameters import ParameterLayout
from . import gpu
from .batched import BatchedBackend
from .loop import LoopBackend
from .precision import bf16_is_native
from .trainer import Backend

BACKENDS = ("auto", "loop", "batched")


def choose_device(name: str = "auto") -> torch.device:
    """The device to run on: `auto` takes a GPU if there is one.

    Where `auto` takes the CPU although a GPU's driver is there, a warning says why.

    Raises:
        UserError: a GPU was asked for where none is, or the name is no device; or this process was
            forked in a way that it cannot compute.
    """
    device = _device(name)
    forks.check(device)
    return device


def _device(name: str) -> torch.device:
    if name == "auto":
        gpu.warn_if_unusable()
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{name!r} is not a device; use auto, cpu or cuda") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device {name!r} was asked for, but this machine has no usable GPU")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"there is no GPU {device.index}; GPUs: {torch.cuda.device_count()}")
    elif device.type != "cpu":
        raise UserError(f"device {name!r} is not supported; use auto, cpu or cuda")
    return device


def make_backend(
    name: str,
    model: ImageModel,
    layout: ParameterLayout,
    device: torch.device,
    precision: str = "fp32",
) -> Backend:
    """The training back-end `loop`, `batched` or, by `auto`, the one that suits the device.

    On a GPU this sets PyTorch's switches for the precision; the last back-end made decides them.

    Raises:
        UserError: unknown name, or a precision the device does not have.
    """
    if name not in BACKENDS:
        raise unknown("back-end", name, BACKENDS)
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision 'tf32' needs a GPU; a CPU has fp32 and bf16")
    if precision == "bf16" and device.type == "cpu" and not bf16_is_native():
        print(
            "this CPU has no bf16 instructions: bf16 works, but slower than fp32", file=sys.stderr
        )
    gpu.prepare(device, precision)
    batched = name == "batched" or (name == "auto" and device.type == "cuda")
    return (BatchedBackend if batched else LoopBackend)(model, layout, device, precision)
