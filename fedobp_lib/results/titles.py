"""What people call a method or a variant of one."""

from __future__ import annotations

from ..methods import METHODS
from ..runs.normalizations import NORMALIZATION_TITLES


def title_of(method: str) -> str:
    """What people call a method, or a variant of FedOBP's scores."""
    if method in METHODS:
        return METHODS[method].title
    return NORMALIZATION_TITLES.get(method, method.replace("_", " "))
