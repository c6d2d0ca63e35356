"""A GPU that is not there: tensors on a device of their own, whose numbers the CPU keeps.

What goes wrong on a GPU and never on a CPU is refused or counted here:
- operations on tensors of two devices;
- waits of the host for the device (`waits`), which a recorded step must not have at all;
- recorded steps that read memory which was freed since.

A recorded step is a list of operations with their places in memory; a replay does them again on
whatever is there now, and keeps alive what it made, but not what it reads. So it is on a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fedobp_lib.data.clients import ClientData
from fedobp_lib.methods import pfedfda
from fedobp_lib.training import fisher, heads, loop, model_stack, plan
from fedobp_lib.training.recording import Recorder

aten = torch.ops.aten
GPU = torch.device("meta")  # PyTorch needs no driver for it, and has no numbers there itself
WAITING = {
    getattr(aten, name).default for name in ("_local_scalar_dense", "equal", "nonzero", "bincount")
}
COPIES = (aten._to_copy.default, aten.copy_.default)

waits: Counter[str] = Counter()  # and how many replays there were
_recording: list[Recording] = []  # the one that goes on


class OnGPU(Tensor):
    """A tensor on the pretended GPU. Its numbers are in `host`."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, host: Tensor) -> OnGPU:
        made = Tensor._make_wrapper_subclass(
            cls, host.shape, host.stride(), host.storage_offset(), dtype=host.dtype, device=GPU
        )
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(f, args, kwargs or {})

    def tolist(self) -> Any:
        _wait("tolist")
        return self.host.tolist()


class PretendGPU(TorchDispatchMode):
    """Within, the device `GPU` can be used, in this thread."""

    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(f, args, kwargs or {})


class Place:
    """Where a tensor lies that a recorded step reads and has not made."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._type = tensor.dtype
        self._how = tensor.storage_offset(), tensor.shape, tensor.stride()

    def read(self) -> Tensor:
        if self._storage.expired():
            raise RuntimeError("a recorded step reads memory that was freed")
        memory = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        return torch.empty(0, dtype=self._type).set_(memory, *self._how)


class Recording:
    """The operations of a step."""

    def __init__(self) -> None:
        self._operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._made: set[int] = set()

    def add(self, f: Any, args: Any, kwargs: Any, out: Any) -> None:
        def place(tensor: Tensor) -> Tensor | Place:
            return tensor if _storage(tensor) in self._made else Place(tensor)

        args, kwargs = tree_map_only(Tensor, place, (args, kwargs))
        made = _tensors(out)
        self._operations.append((f, args, kwargs, made))
        self._made |= {_storage(tensor) for tensor in made}

    def replay(self) -> None:
        for f, args, kwargs, made in self._operations:
            args, kwargs = tree_map_only(Place, Place.read, (args, kwargs))
            for old, new in zip(made, _tensors(f(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def patch_kit(monkeypatch: Any) -> None:
    """Replace what needs a driver: autocast, pinned memory, and the recording of graphs."""
    for module in (model_stack, fisher, heads, loop):
        monkeypatch.setattr(module, "autocast", lambda *_: nullcontext())
    monkeypatch.setattr(plan, "_send", lambda tensor, device: tensor.to(device))
    monkeypatch.setattr(Recorder, "record", _record)
    # Whatever is compared here shares one data set.
    monkeypatch.setattr(ClientData, "shares_images", lambda self, other: True)
    # Other threads do not see the pretended GPU.
    monkeypatch.setattr(pfedfda, "map_on_threads", lambda f, items, n: [f(x) for x in items])


def _record(self: Recorder, steps: Callable[[], None]) -> Callable[[], None]:
    steps()  # as a real recording takes them once before
    recording = Recording()
    _recording.append(recording)
    try:
        steps()
    finally:
        _recording.clear()

    def replay() -> None:
        waits["replays"] += 1
        recording.replay()

    return replay


def _run(f: Any, args: Any, kwargs: Any) -> Any:
    here = [t for t in _tensors((args, kwargs)) if isinstance(t, OnGPU)]
    elsewhere = [t for t in _tensors((args, kwargs)) if not isinstance(t, OnGPU) and t.ndim]
    made_there = kwargs["device"] == GPU if kwargs.get("device") else bool(here)
    if here and elsewhere and f not in COPIES:
        raise RuntimeError(f"{f}: tensors on two devices")
    masked = f is aten.index.Tensor and any(
        index is not None and index.dtype == torch.bool for index in args[1]
    )
    crosses = f in COPIES and ((here and elsewhere) or bool(here) != made_there)
    if (here and (f in WAITING or masked)) or crosses:
        _wait(str(f))
    if here and torch.Tag.inplace_view in f.tags:
        with no_dispatch():
            f(*args, **kwargs)
    args, kwargs = tree_map_only(OnGPU, lambda tensor: tensor.host, (args, kwargs))
    kwargs = tree_map_only(torch.device, lambda _: "cpu", kwargs)
    out = f(*args, **kwargs)
    if not made_there:
        return out
    if _recording:
        _recording[0].add(f, args, kwargs, out)
    own = {id(tensor.host): tensor for tensor in here}
    return tree_map_only(
        Tensor, lambda host: own[id(host)] if id(host) in own else OnGPU(host), out
    )


def _wait(what: str) -> None:
    waits[what] += 1
    if _recording:
        raise RuntimeError(f"{what} waits for the host in a recorded step")


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
