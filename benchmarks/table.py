"""Put the measured tables, `benchmarks/*.csv`, into their README.

    python benchmarks/table.py

A table stands between `<!-- table: NAME; COLUMN, COLUMN, ... -->` and `<!-- end -->`, and shows
these columns of NAME.csv, underscores as spaces.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

HERE = Path(__file__).parent
BLOCK = re.compile(r"(<!-- table: (\w+); ([\w., ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def markdown(path: Path, columns: list[str]) -> str:
    """Columns of a CSV file as a Markdown table."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [[row[column] or "-" for column in columns] for row in csv.DictReader(file)]
    header = [column.replace("_", " ") for column in columns]
    lines = [header, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(text: str) -> str:
    """`text` with every table as it is in its file now."""
    return BLOCK.sub(lambda m: m[1] + markdown(HERE / f"{m[2]}.csv", m[3].split(", ")) + m[4], text)


if __name__ == "__main__":
    readme = HERE / "README.md"
    readme.write_text(filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
