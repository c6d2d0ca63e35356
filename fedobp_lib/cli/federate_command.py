"""What `fedobp federate` does."""

from __future__ import annotations

import argparse
import json

from .commands import as_json, config_of, print_run


def federate(options: argparse.Namespace) -> None:
    from ..federate.launch import federate as compute
    from ..runs.preemption import watching

    with watching():
        result = compute(
            config_of(options),
            directory=options.runs_dir,
            progress=True,
            timeout=options.timeout,
        )
    if options.json:
        more = {"faults": result.summary["faults"], "traffic": _traffic(result)}
        print(json.dumps(as_json(result) | more))
    else:
        print_run(result)
        _print_traffic(result)


def _traffic(result) -> dict[str, dict[str, int]]:
    """Messages by what they were for: how many, and their bytes as in `traffic.csv`."""
    import pandas as pd

    frame = pd.read_csv(result.directory / "traffic.csv").drop(columns=["round", "client"])
    groups = frame.groupby("purpose", sort=False)
    sums = groups.sum().assign(messages=groups.size())
    return {purpose: {k: int(v) for k, v in row.items()} for purpose, row in sums.iterrows()}


def _print_traffic(result) -> None:
    print(f"{'traffic in MB':<26}{'to the clients':^24}    {'from the clients':^24}".rstrip())
    print(f"{'messages':>22}" + 2 * f"    {'method':>8}{'tensors':>8}{'wire':>8}")
    for purpose, sums in _traffic(result).items():
        line = f"  {purpose:<10}{sums['messages']:>10}"
        for way in ("down", "up"):
            sizes = (sums[f"{part}_{way}"] / 1e6 for part in ("method", "tensors", "wire"))
            line += "    " + "".join(f"{size:>8.2f}" for size in sizes)
        print(line)
    print("method: as `fedobp costs` counts; tensors: with the history's; wire: all bytes")
    for fault in result.summary["faults"]:
        who = "" if fault["client"] is None else f"client {fault['client']} "
        print(f"fault in round {fault['round']}: {who}{fault['what']}")
