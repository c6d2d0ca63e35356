"""What `fedobp runs` does. Modules are imported when needed, so that help comes at once."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .commands import as_json, print_run


def list_(options: argparse.Namespace) -> None:
    frame = _chosen(options)
    if options.json:
        print(frame.to_json(orient="records", indent=1, double_precision=15))
    elif frame.empty:
        print("no such runs", file=sys.stderr)
    else:
        print(frame.to_string(index=False, float_format="%.2f", na_rep="-"))


def show(options: argparse.Namespace) -> None:
    from ..runs.store import find_run

    result = find_run(options.run, options.runs_dir)
    if options.json:
        print(json.dumps(as_json(result) | {"provenance": result.summary["provenance"]}))
        return
    print_run(result)
    print(json.dumps(result.summary["provenance"], indent=2))


def diff(options: argparse.Namespace) -> None:
    from ..runs.housekeeping import difference
    from ..runs.store import find_run
    from ..terminal import aligned

    one, two = (find_run(run, options.runs_dir) for run in options.run)
    found = difference(one, two)
    if options.json:
        print(json.dumps(found, default=str))
        return
    rows = [["", one.run_id, two.run_id]]
    for part in ("settings", "provenance"):
        rows += [[name, *map(_short, values)] for name, values in found[part].items()]
    rows += [
        [f"accuracy {stage}", *(_short(None if v is None else round(v, 2)) for v in values)]
        for stage, values in found["accuracy"].items()
    ]
    print("\n".join(aligned(rows, [0, 1, 2])))
    first = found["first_round"]
    print("their histories are the same" if first is None else f"they part in round {first}")


def verify(options: argparse.Namespace) -> int:
    from ..runs.housekeeping import damaged

    runs = _folders(options)
    found = damaged(runs)
    if options.json:
        print(json.dumps({"runs": len(runs), "damaged": found}))
    else:
        for name, reason in found.items():
            print(f"{name}: {reason}")
        print(f"{len(runs)} runs, {len(found)} damaged")
    return 1 if found else 0


def collect(options: argparse.Namespace) -> None:
    from .. import paths
    from ..runs.housekeeping import remove, rubbish

    found = rubbish(options.runs_dir, options.partial)
    if options.json:
        freed = 0 if options.dry_run else remove(found)
        names = [paths.shown(thing) for thing in found]
        print(json.dumps({"removed": not options.dry_run, "found": names, "bytes": freed}))
        return
    for thing in found:
        print(paths.shown(thing))
    if options.dry_run:
        print(f"{len(found)} would be removed")
    else:
        print(f"{len(found)} removed, {remove(found) / 1e6:.1f} MB")


def export(options: argparse.Namespace) -> None:
    from ..runs.archive import export_runs

    runs = export_runs(_folders(options), Path(options.file))
    if options.json:
        print(json.dumps({"runs": runs, "file": options.file}))
    else:
        print(f"{runs} runs written to {options.file}")


def import_(options: argparse.Namespace) -> int:
    from .. import paths
    from ..runs.archive import import_runs

    home = Path(options.runs_dir) if options.runs_dir else paths.runs_dir()
    done = import_runs(Path(options.file), home)
    if options.json:
        print(json.dumps({"new": done.new, "known": done.known, "refused": dict(done.refused)}))
        return 1 if done.refused else 0
    for name, reason in done.refused:
        print(f"fedobp: {name} is refused: {reason}", file=sys.stderr)
    print(f"{len(done.new)} runs taken in, {len(done.known)} were here already")
    return 1 if done.refused else 0


def _chosen(options: argparse.Namespace):
    from ..runs.store import list_runs

    frame = list_runs(options.runs_dir)
    for name in ("method", "dataset", "alpha", "seed", "state"):
        wanted = getattr(options, name)
        if wanted:
            frame = frame[frame[name].isin(wanted)]
    return frame


def _folders(options: argparse.Namespace) -> list[Path]:
    from .. import paths

    home = Path(options.runs_dir) if options.runs_dir else paths.runs_dir()
    return [home / name for name in _chosen(options)["run_id"]]


def _short(value: object) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 26 else f"{text[:25]}…"
