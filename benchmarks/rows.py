"""The rows of a measured table: printed as CSV, each with what made it."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime

import torch

from fedobp_lib.runs.provenance import provenance


def made_by(device: torch.device) -> dict[str, object]:
    """Device, threads, torch's version, commit and date: the last columns of every row."""
    made = provenance(device)
    columns = {name: made[name] for name in ("device", "threads", "torch", "commit")}
    return columns | {"date": datetime.now(UTC).date().isoformat()}


class Rows:
    """Prints rows on standard output, each at once, below a header."""

    def __init__(self) -> None:
        self._writer: csv.DictWriter | None = None

    def add(self, row: dict[str, object]) -> None:
        if self._writer is None:
            self._writer = csv.DictWriter(sys.stdout, row)
            self._writer.writeheader()
        self._writer.writerow(row)
        sys.stdout.flush()
