"""What carries requests to clients and their answers back, as the server sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..methods import Message


@dataclass(frozen=True)
class Request:
    """What the server asks a client for; the answer is a `Message`.

    Attributes:
        ask: `begin`, `train`, `test` or `save`, as the hooks of `Client` are called.
        round: the server's.
        message: what the method's server sends with it.
        options: numbers by name.
    """

    ask: str
    round: int
    message: Message = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """Why there is no answer of a client, in a few words that follow its number."""

    why: str


class Link(Protocol):
    """The server's way to its clients."""

    def here(self) -> list[int]:
        """The clients that are connected, in order."""

    def ask(self, requests: Mapping[int, Request]) -> dict[int, Message | Fault]:
        """Send clients a request each, all at once, and wait for what becomes of it."""

    def wire(self) -> dict[int, tuple[int, int]]:
        """Bytes sent so far to each client and received from it, with all that goes around the
        messages."""
