"""What finished runs say to a claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

POINT = 1.0  # percentage point: the bound where the paper's words give none


@dataclass(frozen=True)
class Finding:
    """What was measured, in words, and whether the claim holds; None: cannot be told yet."""

    measured: str
    holds: bool | None = None

    @staticmethod
    def all_of(parts: Sequence[Finding]) -> Finding:
        """Holds if every part does; one part that does not settles it."""
        told = "; ".join(part.measured for part in parts if part.measured)
        answers = [part.holds for part in parts]
        if False in answers:
            return Finding(told, False)
        return Finding(told, None if None in answers or not answers else True)


UNKNOWN = Finding("")


def every(*checks: Callable[[Any], Finding]) -> Callable[[Any], Finding]:
    """All of several checks of the same evidence."""
    return lambda evidence: Finding.all_of([check(evidence) for check in checks])
