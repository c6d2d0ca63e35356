"""What `fedobp costs` does."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    from ..config import RunConfig

# The fields of a run that decide what a round costs.
FIELDS = ("method", "model", "dataset", "alpha", "clients", "participation", "local_epochs",
          "batch_size", "momentum", "protocol", "test_share", "partition")  # fmt: skip

SERVER_SCORES = ({"scoring": "server"}, {"scoring": "server", "downlink": "sparse"})


def costs(options: argparse.Namespace) -> None:
    from ..results.costs import costs as counted
    from ..results.costs import costs_text

    if options.json and options.csv:
        raise UserError("--json or --csv, not both")
    frame = counted(_runs(options), options.samples)
    if options.json:
        print(frame.to_json(orient="records"))
    elif options.csv:
        print(frame.to_csv(index=False, lineterminator="\n").rstrip())
    else:
        print(costs_text(frame))


def _runs(options: argparse.Namespace) -> list:
    """The runs asked for; FedAvg to compare with, and FedOBP with either side that scores."""
    from ..runs.grids import combinations

    given = {name: getattr(options, name) for name in FIELDS}
    values: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    settings: dict[str, list[str]] = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set takes NAME=VALUE, got {text!r}")
        settings.setdefault(name, []).append(value)
    runs = combinations(values, settings)
    every = combinations(values | {"method": "fedavg"})
    for run in runs:
        if run in every:
            continue
        every.append(run)
        own = run.settings
        if run.method == "fedobp" and "scoring" not in own:
            on_server = [replace(run, settings={**own, **more}) for more in SERVER_SCORES]
            every += filter(_possible, on_server)
    return every


def _possible(run: RunConfig) -> bool:
    """Whether its settings go together: a server cannot do all that a client can."""
    try:
        run.resolved("cpu")
    except UserError:
        return False
    return True
