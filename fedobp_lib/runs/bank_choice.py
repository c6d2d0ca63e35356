"""Where a run keeps the rows of its clients: on the device as long as they are small beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from ..config import ResolvedConfig, RunConfig
from ..data.images import ImageData
from ..data.partition import Partition
from ..errors import unknown
from ..federation import build_federation
from ..methods import PLACES, Bank, BankPlace, Method, make_method
from .store import load_data

CHOICES = ("auto", *PLACES)

# Shares of what is free that banks may take; the rest is for rounds, and for others.
OF_GPU = 0.5
OF_MEMORY = 0.25


def check_bank(name: str) -> None:
    """Raise where `name` is no place for banks.

    Raises:
        UserError: the message names the nearest one.
    """
    if name not in CHOICES:
        raise unknown("bank", name, CHOICES)


def choose_bank(
    name: str, config: RunConfig, device: torch.device, runs: int = 1, processes: int = 1
) -> str:
    """The place of a run's banks, one of `PLACES`.

    `auto` is the device while they fit well into what is free; then the main memory, and then
    the disk.

    Args:
        name: `auto`, or a place, which is then the answer.
        config: the run.
        device: where it is computed.
        runs: how many like it are computed together and share the main memory; a GPU has room
            for all of them, as `packs` takes no more.
        processes: how many on this machine compute as many.

    Raises:
        UserError: no such place.
    """
    check_bank(name)
    if name != "auto":
        return name
    needed = bank_bytes(config.resolved(device))
    if device.type == "cuda" and needed <= OF_GPU * torch.cuda.mem_get_info(device)[0]:
        return "device"
    if processes * runs * needed <= OF_MEMORY * free_memory():
        return "host" if device.type == "cuda" else "device"
    return "disk"


def bank_bytes(config: ResolvedConfig) -> int:
    """What all rows of a run's clients take, to the byte; 0 where the method cannot be made."""
    try:
        method = few_clients(config, load_data(config.dataset), 1, BankPlace("host"))
    except Exception:  # whatever it is, the run itself says so
        return 0
    banks = [value for value in method.state.values() if isinstance(value, Bank)]
    return config.clients * sum(bank.full_bytes for bank in banks)


def few_clients(config: ResolvedConfig, data: ImageData, clients: int, place: BankPlace) -> Method:
    """The method of a run in its first round, with so few clients of a few images each."""
    images = min(len(data) // clients, 8)
    samples, offsets = np.arange(images * clients), images * np.arange(clients + 1)
    split = Partition(samples, offsets, samples, offsets)
    config = replace(config, pretrained=False, precision="fp32")
    federation = build_federation(config, data, partition=split, backend="loop", place=place)
    method = make_method(config.method, federation, config.settings)
    method.round = 1
    return method


def free_memory() -> int:
    """Bytes of main memory that a process can still have: of the machine, or of what a container
    or batch system leaves to it."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        name = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("::")[2].strip()
        folder = next(f for f in (group / name.strip("/"), group) if (f / "memory.max").is_file())
        limit = int((folder / "memory.max").read_text(encoding="utf-8"))
        used = int((folder / "memory.current").read_text(encoding="utf-8"))
        kept = dict(
            line.split() for line in (folder / "memory.stat").read_text("utf-8").splitlines()
        )
        return min(free, limit - used + int(kept["inactive_file"]))
    except (OSError, StopIteration, ValueError, KeyError):  # there is no limit
        return free


def told(place: str, config: ResolvedConfig) -> str:
    """A line for people about rows that are not on the device; empty if all are."""
    size = 0 if place == "device" else bank_bytes(config)
    if not size:
        return ""
    where = {"host": "in main memory", "disk": "on disk"}[place]
    amount = f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
    return f"rows of {config.clients:,} clients, up to {amount} a run, are kept {where}"
