"""The costs as a table that reads well in 80 columns."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from ...terminal import aligned, folded
from .frame import RUN

SPARSE = "sparse: without products of zero weights and what only frozen columns need"

NOTES = {
    "ffgg": "fine-tunes to its last epoch here, which is the most it may take",
    "fedala": "learns in one pass; once, in a client's second round, in several",
}


def costs_text(frame: pd.DataFrame) -> str:
    """The last round of each configuration in a frame of `costs`.

    FLOPs are those of a client; `sparse` are those left for hardware that skips zero weights and
    frozen columns; `extra` is against FedAvg with the same data and model.
    """
    lines: list[str] = []
    for key, group in frame.groupby(RUN, sort=False):
        lines += ["", *_title(dict(zip(RUN, key, strict=True))), *_group(group)]
    return "\n".join(lines[1:])


def _title(run: dict[str, Any]) -> list[str]:
    """Which runs a table is about."""
    return [
        folded(line.format(**run))
        for line in (
            "{model} on {dataset}, {samples} samples a client, alpha {alpha}, {protocol}",
            "{cohort} of {clients} clients a round, {local_epochs} epochs in batches of "
            "{batch_size}, momentum {momentum}",
        )
    ]


def _group(group: pd.DataFrame) -> list[str]:
    last = group[group["round"] == group["round"].max()]
    chosen = list(last.groupby(["method", "settings"], sort=False))
    plain = [_flops(rows)[0] for (method, own), rows in chosen if (method, own) == ("fedavg", "{}")]
    head = ("method", "GFLOP", "sparse", "extra", "down", "up", "client", "server", "")
    table, below = [head], [""]
    for (method, own), rows in chosen:
        value, sparse = _flops(rows)
        extra = "-"
        if plain and method != "fedavg":
            extra = f"{100 * (value / plain[0] - 1):+.2f} %"
        cells = [
            _number(x / 1e6)
            for x in (
                _of(rows, "client", "bytes", "down"), _of(rows, "client", "bytes", "up"),
                _of(rows, "client", "stored", "state"), _of(rows, "server", "stored", "state"),
            )
        ]  # fmt: skip
        table.append((method, _number(value / 1e9), _number(sparse / 1e9), extra, *cells, ""))
        below.append("  " + " ".join(f"{k}={v}" for k, v in json.loads(own).items()))
    lines = ["a client's round: GFLOP; MB down and up; MB that client and server keep", ""]
    for line, settings in zip(aligned(table, left=(0,)), below, strict=True):
        lines += [line, folded(settings)] if settings.strip() else [line]
    notes = [f"{m}: {text}" for m, text in NOTES.items() if m in set(group["method"])]
    return [*lines, "", *map(folded, [SPARSE, *_outside(group), *notes])]


def _outside(group: pd.DataFrame) -> list[str]:
    """What clients outside the cohort have to do, by method."""
    notes = []
    outside = group[group["side"] == "outside"]
    for (method, _), rows in outside.groupby(["method", "settings"], sort=False):
        one = rows[rows["round"] == rows["round"].max()]
        flops = one[one["quantity"] == "flops"]["value"].sum()
        down, up = (_of(one, "outside", "bytes", part) for part in ("down", "up"))
        when = "one round" if rows["round"].nunique() == 1 else "each round"
        notes.append(
            f"{method}: in {when} every other client, too: {_number(flops / 1e9)} GFLOP, "
            f"{_number(down / 1e6)} MB down, {_number(up / 1e6)} MB up"
        )
    return notes


def _flops(rows: pd.DataFrame) -> tuple[float, float]:
    own = rows[(rows["side"] == "client") & (rows["quantity"] == "flops")]
    return own["value"].sum(), own["sparse"].sum()


def _of(rows: pd.DataFrame, side: str, quantity: str, part: str) -> float:
    where = (rows["side"] == side) & (rows["quantity"] == quantity) & (rows["part"] == part)
    return float(rows.loc[where, "value"].iloc[0])


def _number(x: float) -> str:
    """Four digits, or the whole number."""
    return f"{x:.{max(0, 3 - len(str(int(x))) + 1)}f}"
