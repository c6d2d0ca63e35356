"""Which code, versions and machine made a result."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]


def provenance(device: torch.device) -> dict[str, Any]:
    """Which code, versions and machine made a result."""
    commit, dirty = _commit()
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "uncommitted_changes": dirty,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that this process had, of the GPU's memory or else of the main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


@lru_cache
def _commit() -> tuple[str | None, bool | None]:
    here = Path(__file__).parents[1]  # the package
    try:
        ask = ["git", "-C", str(here)]
        commit = _output([*ask, "rev-parse", "HEAD"])
        changes = _output([*ask, "status", "--porcelain", "--", str(here)])
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit.strip(), bool(changes.strip())


def _output(command: list[str]) -> str:
    # Names of files may be in any encoding.
    answer = subprocess.check_output(command, stderr=subprocess.DEVNULL)
    return answer.decode(errors="replace")


@lru_cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
