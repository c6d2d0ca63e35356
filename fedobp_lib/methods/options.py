"""Which methods can do what a run asks of the way between clients and server.

What is forged or late on the way has to be sent: a method says by its parts `upload`, `keep` and
`aggregate` what that is, and one that overrides `finish` instead does not. An aggregator takes the
place of a mean of models; a method whose server makes its model in another way has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from .adversaries import Attack
from .aggregators import MEAN, Aggregator
from .base import Method


def in_parts(method: type[Method]) -> bool:
    """Whether what the clients and what the server do at the end of a round is separate."""
    return method.finish is Method.finish


def averages(method: type[Method]) -> bool:
    """Whether a method's server makes its model with `Method.average`, of rows of models."""
    if method.averages is not None:
        return method.averages
    hooks = ("finish", "aggregate", "average")
    return all(getattr(method, hook) is getattr(Method, hook) for hook in hooks)


def check_options(
    method: type[Method],
    settings: Mapping[str, Any],
    aggregator: Aggregator,
    attack: Attack | None,
    delays: int,
) -> None:
    """Raise UserError where a method, with all its settings, cannot do what a run asks for."""
    name = method.name
    if aggregator != MEAN and not averages(method):
        raise UserError(
            f"method {name!r} has no aggregator but the mean: its server does not average whole "
            "models"
        )
    forged = attack is not None and attack.on_the_way
    if (forged or delays) and not in_parts(method):
        what = f"byzantine={attack}" if forged else f"delays={delays}"
        raise UserError(
            f"method {name!r} cannot have {what}: what its clients send is not separate from what "
            "its server does (it overrides `finish`)"
        )
    if delays and settings.get("scoring") == "server":
        raise UserError("a server that scores keeps what has not arrived; set delays=0")
