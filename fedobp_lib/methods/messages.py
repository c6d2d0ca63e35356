"""A message between server and client: tensors by name, and how they go over a wire.

Numbers travel as they are computed with. A mask travels as bits, or where that takes fewer bytes as
the numbers of the columns where it holds; its type says which of the two it is.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .downlink import PLACE

Message = dict[str, Tensor]


def nbytes(message: Mapping[str, Tensor]) -> int:
    """Bytes of a message's tensors; names and shapes, which both sides know, are not counted."""
    return sum(tensor.numel() * tensor.element_size() for tensor in message.values())


def bits(mask: Tensor) -> Tensor:
    """A mask, bool (n,), with eight places to a byte: uint8."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy())).to(mask.device)


def packed(mask: Tensor) -> Tensor:
    """A mask, bool (n,), in as few bytes as may be: bits (uint8), or columns (int32)."""
    columns = mask.nonzero()[:, 0].to(PLACE)
    return columns if columns.nbytes < -(-len(mask) // 8) else bits(mask)


def unpacked(sent: Tensor, width: int) -> Tensor:
    """The mask, bool (width,), that `packed` or `bits` has made into `sent`."""
    if sent.dtype == torch.uint8:
        places = np.unpackbits(sent.cpu().numpy(), count=width).astype(bool)
        return torch.from_numpy(places).to(sent.device)
    mask = torch.zeros(width, dtype=torch.bool, device=sent.device)
    mask[sent.long()] = True
    return mask


def pack(message: Mapping[str, Tensor]) -> bytes:
    """A message as bytes, those of an uncompressed .npz; `unpack` reads them."""
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in message.items()}
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def unpack(sent: bytes) -> Message:
    """The message in `sent`.

    Raises:
        ValueError: these are not the bytes of a message. Nothing in them is executed.
    """
    try:
        with np.load(io.BytesIO(sent), allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # whatever other bytes can raise
        raise ValueError(f"it cannot be read ({type(error).__name__})") from error
