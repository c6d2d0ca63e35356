"""What a claim is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .finding import Finding


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper about its own results.

    Attributes:
        id: short name.
        places: the tables and figures it is about, such as ("table", 1).
        section: where the paper says it.
        text: the paper's words; `...` where some are left out.
        holds_when: what is tested.
        check: from the evidence to a finding.
        evidence: what `check` gets; a name of `table.EVIDENCE`.
        note: what a reader should know besides.
    """

    id: str
    places: tuple[tuple[str, int], ...]
    section: str
    text: str
    holds_when: str
    check: Callable[[Any], Finding]
    evidence: str
    note: str = ""
