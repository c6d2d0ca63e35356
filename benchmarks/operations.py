"""What a training step of the batched back-end asks of the device: operations, and bytes moved.

    python benchmarks/operations.py > benchmarks/operations.csv

No GPU is needed: a step is traced operation by operation on a CPU. An operation that computes or
copies is one or a few kernels on a GPU; views are none. `kernels` counts operations, and those of
more than one kernel by `SEVERAL`. `update_passes` is what the optimizer moves (from the gradient to
the new weights), in passes over the rows. The fused kernel of `fedobp_lib.training.update` is not
traced; the update counted here is the one without it. These numbers may only fall.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from rows import Rows, made_by
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedobp_lib.data.clients import ClientData
from fedobp_lib.data.partition import Partition
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.training import batched
from fedobp_lib.training.batched import BatchedBackend
from fedobp_lib.training.trainer import LocalSettings, Trainer

# Kernels of operations that start more than one on a GPU: they fill with zeros first.
SEVERAL = {"max_pool2d_with_indices_backward": 2, "col2im": 2, "native_batch_norm": 2}
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


class Trace(TorchDispatchMode):
    """Counts the operations that compute or copy, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.part = "gradient"

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = f(*args, **(kwargs or {}))
        read, written = tensors((args, kwargs)), tensors(out)
        places = {t.untyped_storage().data_ptr() for t in read}
        view = all(t.untyped_storage().data_ptr() in places for t in written)
        if "empty" in f.name() or (view and not f._schema.is_mutable):
            return out
        name = f.name().split("::")[1].split(".")[0]
        self.kernels[self.part] += SEVERAL.get(name, 1)
        moved = sum(size(t) for t in read) + sum(size(t) for t in written)
        self.bytes[self.part] += moved - (size(written[0]) if fills(f, read, written) else 0)
        return out


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def size(tensor: Tensor) -> int:
    """Bytes of what a tensor shows; what is repeated is read once."""
    shown = [n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step]
    return int(np.prod(shown)) * tensor.element_size()


def fills(f: Any, read: Sequence[Tensor], written: Sequence[Tensor]) -> bool:
    """Whether an operation only writes to a tensor that it is given, which was counted as read."""
    name = f.name()
    given = bool(written) and any(written[0] is t for t in read)
    return given and ("copy_" in name or "zero_" in name or "fill_" in name or ".out" in name)


def measure(
    model: str, data: str, clients: int, convolution: str = "unfolded", precision: str = "fp32"
) -> dict[str, Any]:
    """Kernels and bytes of one step of plain SGD.

    Args:
        model: `avgcnn` or `resnet18`.
        data: whose size the random images have; a key of `SHAPES`.
        clients: K.
        convolution, precision: of the back-end.
    """
    batch, shape = 32, SHAPES[data]
    rng = np.random.default_rng(0)
    total = clients * batch
    images = rng.integers(0, 256, (total, *shape), dtype=np.uint8)
    offsets = np.arange(clients + 1) * batch
    split = Partition(np.arange(total), offsets, np.arange(clients), np.arange(clients + 1))
    half = np.full(shape[2], 0.5, np.float32)
    cpu = torch.device("cpu")
    held = ClientData(images, rng.integers(0, 10, total), split, half, half, 10, cpu, seed=0)
    net = build_model(model, shape, 10, seed=0)
    layout = ParameterLayout.of(net)
    backend = BatchedBackend(net, layout, cpu, precision, convolution)
    trainer = Trainer(backend, held, LocalSettings(epochs=1, batch_size=batch))
    rows = layout.flatten(net).repeat(clients, 1)
    trace = Trace()
    with traced_step(trace):
        trainer.fit(rows, range(clients), 1)
    of_rows = rows.numel() * rows.element_size()
    return {
        "model": model,
        "size": data,
        "clients": clients,
        "convolution": convolution,
        "precision": precision,
        "kernels": sum(trace.kernels.values()),
        "kernels_of_update": trace.kernels["update"],
        "megabytes": round(sum(trace.bytes.values()) / 1e6, 1),
        "update_passes": round(trace.bytes["update"] / of_rows, 2),
    }


@contextmanager
def traced_step(trace: Trace) -> Iterator[None]:
    """Within, steps of the batched back-end are traced, gradient and update apart."""
    step, update = BatchedBackend._step, batched.update

    def traced(*args: Any) -> None:
        with trace:
            step(*args)

    def parted(*args: Any) -> None:
        trace.part = "update"
        update(*args)
        trace.part = "gradient"

    BatchedBackend._step, batched.update = traced, parted  # type: ignore[method-assign]
    try:
        yield
    finally:
        BatchedBackend._step, batched.update = step, update  # type: ignore[method-assign]


def main() -> None:
    rows = Rows()
    for case in (
        ("avgcnn", "mnist", 10),
        ("avgcnn", "mnist", 40),
        ("avgcnn", "cifar10", 10),
        ("avgcnn", "cifar10", 10, "unfolded", "bf16"),
        ("avgcnn", "cifar10", 10, "grouped"),
        ("resnet18", "cifar10", 10),
    ):
        rows.add(measure(*case) | made_by(torch.device("cpu")))


if __name__ == "__main__":
    main()
