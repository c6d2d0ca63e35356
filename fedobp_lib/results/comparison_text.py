"""A comparison with the published numbers as people read it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..methods import METHODS
from ..runs.normalizations import NORMALIZATION_TITLES
from ..terminal import TOGETHER, folded
from .compare import RULE, VERDICTS
from .departures import AS_IN_THE_PAPER
from .tables import FINE_TUNED


def counts(frame: pd.DataFrame) -> str:
    """One line: how many cells have each verdict, and how many were run as in the paper."""
    numbers = frame["verdict"].value_counts()
    told = [f"{numbers.get(name, 0)} {name}" for name in VERDICTS if numbers.get(name, 0)]
    same = int((frame["setting"] == AS_IN_THE_PAPER).sum())
    cells = "1 cell" if len(frame) == 1 else f"{len(frame)} cells"
    return f"{cells}: {', '.join(told)}; {same} in the paper's setting"


def readable_comparison(frame: pd.DataFrame) -> pd.DataFrame:
    """A comparison as people read it: a row a cell, all text.

    Where nothing was run of a data set and alpha, one row stands for all of its cells.

    Args:
        frame: as the comparisons give it.
    """
    rows = []
    for (dataset, alpha), block in frame.groupby(["dataset", "alpha"], sort=False):
        if (block["verdict"] == "not run").all():
            name = f"all {len(block)}" if len(block) > 1 else _name(block.iloc[0])
            rows.append([dataset, f"{alpha:g}", name, *"-----", "", "not run"])
            continue
        for _, row in block.iterrows():
            rows.append(
                [
                    dataset,
                    f"{alpha:g}",
                    _name(row),
                    _accuracy(row["published_mean"], row["published_std"]),
                    _accuracy(row["mean"], row["std"]),
                    str(row["seeds"]) if row["seeds"] else "-",
                    "-" if np.isnan(row["difference"]) else f"{row['difference']:+.2f}",
                    "-" if np.isnan(row["low"]) else f"{row['low']:.2f} to {row['high']:.2f}",
                    row["setting"],
                    row["verdict"],
                ]
            )
    columns = ["data set", "alpha", "method", "published", "ours", "seeds", "difference"]
    return pd.DataFrame(rows, columns=[*columns, "95 % interval", "setting", "verdict"])


def comparison_text(frame: pd.DataFrame) -> str:
    """A comparison for a terminal, 80 columns wide, with the counts and the rule at its end."""
    parts = []
    for table, cells in frame.groupby("table", sort=False, dropna=False):
        parts.append("Not in the paper" if pd.isna(table) else f"Table {table}")
        unrun = []
        for (dataset, alpha), block in cells.groupby(["dataset", "alpha"], sort=False):
            if (block["verdict"] == "not run").all():
                unrun.append(f"{dataset}{TOGETHER}{alpha:g}")
            else:
                parts.append(_block_text(f"{dataset}, alpha {alpha:g}", block))
        if unrun:
            parts.append(folded(f"Not run: {', '.join(unrun)}.", indent=0))
    parts += [folded(f"{counts(frame)}.", indent=0), folded(RULE, indent=0)]
    return "\n\n".join(parts)


def _block_text(title: str, block: pd.DataFrame) -> str:
    lines = [f"{title:<20}{'published':>13}{'ours':>14}{'diff':>7}{'interval':>15} verdict"]
    for row in readable_comparison(block).itertuples(index=False):
        _, _, name, published, ours, _, difference, span, _, word = row
        span = span.replace(" to ", "..")
        lines.append(f"{name[:20]:<20}{published:>13}{ours:>14}{difference:>7}{span:>15} {word}")
    settings = block[block["setting"] != ""].groupby("setting", sort=False)
    for setting, rows in settings:
        who = f"{', '.join(map(_name, rows.to_dict('records')))}: " if len(settings) > 1 else ""
        lines.append(folded(f"Setting: {who}{setting}.", indent=0))
    return "\n".join(lines)


def _name(row: Any) -> str:
    """Title of a row's method or normalization."""
    if not pd.isna(row.get("normalization")):
        return NORMALIZATION_TITLES[row["normalization"]]
    method = row["method"]
    if method == "fedavg-fine-tuned":
        return FINE_TUNED
    return METHODS[method].title if method in METHODS else method


def _accuracy(mean: float, std: float) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.2f}" if np.isnan(std) else f"{mean:.2f} ({std:.2f})"
