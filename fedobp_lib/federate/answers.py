"""What a client's answer must hold, and what of it is for the history alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..methods import Message, Method, scores_on_server

# A tensor's type and shape.
Kind = tuple[torch.dtype, tuple[int, ...]]

# Beside the method's own message: `personal`, parameters of each layer; of each test `correct`
# answers and the sum of losses. A method does without; the history of a run does not.
REPORT = ("personal", "correct", "loss")


def personal_counts(method: Method, personal: Tensor | None) -> Tensor:
    """How many parameters of each layer are personal, of one client: int64 (layers,)."""
    layout = method.federation.layout
    if personal is None:
        return torch.zeros(len(layout.layers), dtype=torch.int64)
    mask = personal.expand(*personal.shape[:-1], layout.parameters).reshape(-1)
    return torch.stack([mask[columns].sum() for columns in layout.layers.values()])


def trained_kinds(method: Method) -> dict[str, Kind]:
    """What a client answers to `train`: its message of the round, and its report."""
    kinds = tested_kinds(2)
    if not scores_on_server(method):  # which else knows itself what is personal
        kinds["personal"] = (torch.int64, (len(method.federation.layout.layers),))
    width = len(method.global_params[method.travels])
    if width:
        kinds |= {"model": (torch.float32, (width,)), "samples": (torch.int64, ())}
    return kinds


def tested_kinds(stages: int) -> dict[str, Kind]:
    """What a client answers to a test of so many models."""
    return {"correct": (torch.int64, (stages,)), "loss": (torch.float64, (stages,))}


def problem(answer: Message, expected: dict[str, Kind]) -> str | None:
    """What is wrong with an answer; None: it holds what is expected, and finite numbers."""
    names = sorted(set(answer) ^ set(expected))
    if names:
        what = "lacks" if names[0] in expected else "holds an unexpected"
        return f"it {what} {names[0]!r}"
    for name, (kind, shape) in expected.items():
        tensor = answer[name]
        if tuple(tensor.shape) != shape:
            return f"{name!r} has the shape {tuple(tensor.shape)}, not {shape}"
        if tensor.dtype != kind:
            return f"{name!r} is of {_word(tensor.dtype)}, not {_word(kind)}"
        if not tensor.isfinite().all():
            return f"{name!r} holds NaN or infinity"
    return None


def own_part(answer: Message) -> Message:
    """The method's own message in an answer to `train`."""
    return {name: tensor for name, tensor in answer.items() if name not in REPORT}


def _word(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")
