"""What PyTorch keeps for the whole process where a GPU computes, and why it may not see the GPU."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path

import torch


def prepare(device: torch.device, precision: str) -> None:
    """Set the switches of a GPU for both back-ends; on a CPU there is nothing to set.

    Products and convolutions of fp32 numbers are rounded to TF32 if that was asked for, and not
    otherwise: PyTorch allows it for convolutions unless told.

    PyTorch 2.14 computes batched outer products on a GPU with a kernel that Triton compiles at
    first use. Triton builds its launcher with a C compiler and Python's headers; where they are
    missing the product would fail, so PyTorch's ordinary kernel takes its place.

    Args:
        device: where to compute.
        precision: one of `PRECISIONS`.
    """
    if device.type != "cuda":
        return
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
    if not compiles_c():
        switch_triton_off()


def compiles_c() -> bool:
    """Whether Triton finds what it builds its launchers with: a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = Path(sysconfig.get_config_var("INCLUDEPY") or "")
    return bool(compiler) and (headers / "Python.h").is_file()


def switch_triton_off() -> None:
    """PyTorch's own kernels in place of those that Triton would compile, for this process.

    As `TORCH_DISABLE_NATIVE_JIT=1`, which only counts before PyTorch is imported.
    """
    native = getattr(torch.backends, "python_native", None)
    if native is not None and "triton" in native.all_dsls:
        native.triton.enabled = False


def load_linear_algebra(device: torch.device) -> None:
    """Load PyTorch's linear algebra for a GPU, before several threads ask for it at once.

    They would fail with "lazy wrapper should be called at most once" (pytorch issue 90613).
    """
    if device.type == "cuda":
        torch.linalg.inv(torch.ones(1, 1, device=device))


def release(device: torch.device) -> None:
    """Give memory of the GPU that nobody uses any more back to other processes."""
    if device.type == "cuda":
        gc.collect()  # recorded steps and their memory refer to each other
        torch.cuda.empty_cache()


@lru_cache
def warn_if_unusable() -> None:
    """Say once where a GPU's driver is there and PyTorch is made for it, but does not work."""
    if torch.version.cuda is None or torch.cuda.is_available() or not _driver_is_there():
        return
    print(
        f"warning: there is an NVIDIA driver, but PyTorch cannot use it, so the CPU computes: "
        f"{_why_not()}",
        file=sys.stderr,
    )


def _driver_is_there() -> bool:
    return Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None


def _why_not() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "no reason given"
