"""All that a first GPU is asked, in under eight minutes there: is it right, and how fast is it.

    python benchmarks/gpu.py                              # everything, into benchmarks/gpu/
    python benchmarks/gpu.py --parts correctness speed
    python benchmarks/gpu.py --device cpu --tiny          # that it works, in a minute without a GPU

Each part (`gpu_parts.py`) writes PART.csv, row by row, in a process of its own, so that a fault of
one, even a crash or a GPU that answers nothing any more, leaves the others alone. What fails is a
row with its `fault`. A part that is not done in its time is ended. Progress and the most time that
is left go to standard error. Exit code 1 if there is any fault or result that differs.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import torch
from gpu_parts import PARTS, Scale
from rows import made_by

from fedobp_lib.errors import UserError
from fedobp_lib.training.backends import choose_device


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "gpu")
    parser.add_argument("--tiny", action="store_true", help="a few small rounds of each")
    parser.add_argument("--within", metavar="PART", help=argparse.SUPPRESS)
    parser.add_argument("--ends", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except UserError as error:
        parser.error(str(error))
    options.out.mkdir(parents=True, exist_ok=True)
    if options.within:
        measure(options.within, device, options.tiny, options.out, options.ends)
        return 0
    for number, name in enumerate(options.parts):
        ends = time.time() + sum(PARTS[left].seconds for left in options.parts[number:])
        command = [
            sys.executable, __file__, "--device", options.device, "--out", str(options.out),
            "--within", name, "--ends", str(ends), *(["--tiny"] if options.tiny else []),
        ]  # fmt: skip
        # Without a GPU it is only to be seen that everything works, however slow the machine is.
        run_part(name, command, options.out, device, 600 if options.tiny else PARTS[name].seconds)
    return summary(options.parts, options.out)


def run_part(
    name: str, command: Sequence[str], folder: Path, device: torch.device, seconds: float
) -> None:
    """Run a part's process; if it dies or takes too long, that is the last row of its table."""
    path = folder / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows_of(name, device, file).writeheader()
    fault = None
    try:
        done = subprocess.run(command, timeout=seconds)
        if done.returncode:
            fault = f"the part ended with code {done.returncode}"
    except subprocess.TimeoutExpired:
        fault = f"the part was not done in {seconds:.0f} s"
    if fault:
        _say(f"  {name}: {fault}")
        with path.open("a", newline="", encoding="utf-8") as file:
            rows_of(name, device, file).writerow({"fault": fault} | made_by(device))


def measure(name: str, device: torch.device, tiny: bool, folder: Path, ends: float) -> None:
    """The rows of a part, in this process, below the header that is there."""
    with (folder / f"{name}.csv").open("a", newline="", encoding="utf-8") as file:
        rows = rows_of(name, device, file)
        for case, ask in PARTS[name].cases(device, Scale.of(tiny)):
            left = max(0, ends - time.time())
            _say(
                f"{name}: {', '.join(map(str, case.values()))}"
                f" (at most {left // 60:.0f}:{left % 60:02.0f} left)"
            )
            rows.writerow(answered(case, ask) | made_by(device))
            file.flush()


def answered(case: dict[str, object], ask: Callable[[], dict[str, object]]) -> dict[str, object]:
    """The row of a case: what was measured, or the fault."""
    try:
        return case | ask()
    except Exception as error:  # whatever a GPU that was never met answers
        reason = (str(error).splitlines() or [""])[0]
        _say(f"  {type(error).__name__}: {reason}")
        return case | {"fault": f"{type(error).__name__}: {reason}"}


def rows_of(name: str, device: torch.device, file: TextIO) -> csv.DictWriter:
    """Writes rows of a part; what a row does not have is left empty."""
    return csv.DictWriter(file, [*PARTS[name].columns, "fault", *made_by(device)])


def summary(names: Sequence[str], folder: Path) -> int:
    """Say what there is to worry about; 1 if there is any."""
    bad = 0
    for name in names:
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        wrong = [row for row in rows if row["fault"] or row.get("verdict") == "differs"]
        bad += len(wrong)
        _say(f"{name}: {len(rows)} rows, {len(wrong)} with a fault or a difference")
    return 1 if bad else 0


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
