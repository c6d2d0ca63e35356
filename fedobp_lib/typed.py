"""Values as their declared types, so that one configuration is written in one way only.

`1` for a number with a fraction becomes `1.0`, NumPy's numbers become Python's, and text, as the
command line and papermill pass it, is read. What cannot be meant is refused in one line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import field, fields
from functools import cache
from textwrap import shorten
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from .errors import UserError


def as_declared(name: str, value: Any, hint: Any) -> Any:
    """A value as bool, int, float or str; None where the type allows it.

    Args:
        name: of the value, for the message.
        value: any.
        hint: its declared type; of a type that is none of the four the value is left as it is.

    Raises:
        UserError: the value does not fit the type.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None and NoneType in kinds:
        return None
    for kind, read in READ.items():
        if kind in kinds:
            try:
                return read(value)
            except (TypeError, ValueError, OverflowError):
                told = " | ".join(getattr(one, "__name__", str(one)) for one in kinds)
                told = told.replace("NoneType", "None")
                got = shorten(repr(value), 60)  # an array's would be many lines
                raise UserError(f"{name} must be of type {told}, got {got}") from None
    return value


def added(default: Any) -> Any:
    """A field of a dataclass of settings that came later, and at its default changes nothing.

    It then does not count in a run's id, so that runs from before it are still found.
    """
    return field(default=default, metadata={"added": True})


def added_fields(cls: type) -> dict[str, Any]:
    """The fields of a dataclass that came later, at their defaults."""
    return {f.name: f.default for f in fields(cls) if f.metadata.get("added")}


def without_added(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields that count in a run's id."""
    later = added_fields(cls)
    return {k: v for k, v in values.items() if k not in later or v != later[k]}


def declared(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name."""
    return _hints(cls)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _bool(value: Any) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    text = str(value).lower()
    if text not in words:
        raise ValueError
    return words[text]


def _int(value: Any) -> int:
    if isinstance(value, str):
        return int(value)
    # True is a number to Python, and never meant as one.
    if isinstance(value, bool) or value != int(value):
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value) + 0.0  # no -0.0, which would be another text


def _str(value: Any) -> str:
    text = os.fspath(value)  # text, or a path
    if not isinstance(text, str):
        raise TypeError
    return text


READ = {bool: _bool, int: _int, float: _float, str: _str}
