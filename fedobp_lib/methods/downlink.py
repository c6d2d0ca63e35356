"""What a server that scores sends to a client: the merged model, whole or as its few differences.

The personal values are those that the client itself uploaded, so a client that keeps its last
model has them already. `sparse` is for clients that keep nothing: the model that the server sends
to all, and for each client which of its parameters are its own, and their values.
"""

from __future__ import annotations

import torch
from torch import Tensor

DOWNLINKS = ("merged", "sparse")

# Bytes of a column's number; models have less than 2**31 parameters.
PLACE = torch.int32


def differences(model: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Columns, int32 (n,), and values (n,) of a model (size,) where the mask (size,) holds."""
    columns = mask.nonzero()[:, 0]
    return columns.to(PLACE), model[columns]


def unlike(model: Tensor, server: Tensor) -> Tensor:
    """Where a model (size,) is not the server's to the last bit: bool (size,)."""
    return model.view(torch.int32) != server.view(torch.int32)


def merged(server: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    """The model (size,) that has these values in these columns, and else the server's."""
    model = server.clone()
    model[columns.long()] = values
    return model
