"""Grids of runs: every combination of the values given, from a command line or a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from ..config import RunConfig
from ..errors import UserError, unknown
from ..methods import METHODS, find_method

FIELDS = [field.name for field in fields(RunConfig) if field.name != "settings"]


def combinations(
    values: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> list[RunConfig]:
    """A run for every combination.

    Args:
        values: fields of `RunConfig`; a value, or a list of values. Without `method`: every one.
        settings: hyperparameters of methods, a value or a list of values each. One that only some
            of the methods have is set for those.

    Raises:
        UserError: an unknown field or method, an empty list, or a setting that none of the
            methods has.
    """
    for name in values:
        if name not in FIELDS:
            raise unknown("field of a run", name, FIELDS)
    settings = settings or {}
    for name, value in {**values, **settings}.items():
        if isinstance(value, list | tuple) and not value:
            raise UserError(f"{name} has no values")
    axes = {"method": list(METHODS)} | {name: _several(value) for name, value in values.items()}
    of_method = {m: [f.name for f in fields(find_method(m).Settings)] for m in axes["method"]}
    for name in settings:
        if not any(name in known for known in of_method.values()):
            every = sorted({known for names in of_method.values() for known in names})
            raise unknown("setting of these methods", name, every)
    runs = []
    for chosen in product(*axes.values()):
        run = dict(zip(axes, chosen, strict=True))
        own = {n: _several(v) for n, v in settings.items() if n in of_method[run["method"]]}
        for combination in product(*own.values()):
            runs.append(RunConfig(**run, settings=dict(zip(own, combination, strict=True))))
    return runs


def read_grid(path: Path) -> list[RunConfig]:
    """The runs of a TOML file: fields of `RunConfig`, and a table `settings`.

    For instance

        method = ["fedobp", "fedavg"]
        dataset = "mnist"
        seed = [0, 1, 2]

        [settings]
        quantile = [0.99, 0.999]

    Raises:
        UserError: it cannot be read, or see `combinations`.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    settings = content.pop("settings", {})
    if not isinstance(settings, dict):
        raise UserError(f"{path}: settings must be a table")
    if not content:
        raise UserError(f"{path} says no runs; give at least a method")
    return combinations(content, settings)


def _several(value: Any) -> list[Any]:
    """The values, each once."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return [v for number, v in enumerate(values) if v not in values[:number]]
