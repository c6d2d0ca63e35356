"""What a finding is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A heading, its sentences, and where they are shown; an empty line parts paragraphs."""

    heading: str
    text: str
    shown: str
