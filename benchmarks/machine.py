"""What a machine can do at most: its rate of matrix products and of copying."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fedobp_lib.models.networks import build_model


def matrix_rate(device: torch.device, precision: str, threads: int) -> float:
    """FLOP a second of large matrix products: the best of several tries.

    On a CPU in two ways, one product shared by all threads and one product a thread.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 8192 if device.type == "cuda" else 1024
    one, two = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    times = [_seconds(lambda: one @ two, device) for _ in range(20)]
    torch.backends.cuda.matmul.allow_tf32 = allowed
    best = 2 * size**3 / min(times)
    if device.type == "cpu" and threads > 1:
        with ThreadPoolExecutor(threads, "core", torch.set_num_threads, (1,)) as pool:
            for _ in range(10):
                began = time.perf_counter()
                list(pool.map(lambda _: one @ two, range(2 * threads)))
                best = max(best, 2 * threads * 2 * size**3 / (time.perf_counter() - began))
    return best


def copy_rate(device: torch.device) -> float:
    """Bytes a second, read and written, of copying a large tensor: the best of several tries."""
    source = torch.zeros(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    times = [_seconds(lambda: target.copy_(source), device) for _ in range(10)]
    return 2 * source.numel() * source.element_size() / min(times)


def step_work(model: str, shape: tuple[int, int, int], batch_size: int = 32) -> tuple[int, int]:
    """FLOP of a training step of one client, and the bytes it moves at least.

    The bytes: weights are read forward and backward, gradients written and read, momentum and
    weights read and written. Activations are left out, as they may stay in a cache.
    """
    net = build_model(model, shape, 10, seed=0)
    images = torch.zeros(batch_size, shape[2], *shape[:2])
    with FlopCounterMode(display=False) as counter:
        loss: Tensor = net(images).sum()
        loss.backward()
    parameters = sum(p.numel() for p in net.parameters())
    return counter.get_total_flops(), 8 * 4 * parameters


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
