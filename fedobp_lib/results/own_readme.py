"""README.md's part about the kit's own runs on real images: sentences, the main table, figures."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ..errors import UserError
from ..runs.store import RunResult
from .own_findings import missing, sentences, what_ran
from .own_runs import COPY, EXACT, main_table, starred

BEGIN = "<!-- own runs: written by benchmarks/round100.py -->"
END = "<!-- own runs end -->"


def readme_part(results: Sequence[RunResult]) -> str:
    """The README's part about these runs, Markdown: sentences, the main table, two figures."""
    said = sentences(results)
    lines = [f"- {text}" for text in [*said, *missing(results)]]
    return "\n".join(
        [
            BEGIN,
            what_ran(results),
            "",
            *lines,
            "",
            *_markdown(_marked(main_table(results))),
            "",
            "*Ours (logged), percent: all clients, pooled, after 100 rounds, before local training "
            "but for the row `+ fine-tuning`; in the order of the first column. `-`: not run, or "
            "not tested then; `(-)`: the kit has no log of it. Methods are as the benchmark behind "
            "the paper has them, where the kit can (preset `logged`)."
            f"{_copy(results)}*",
            "",
            "![Ours less logged](figures/quick/own_beside_logs.png)",
            "",
            "*Ours less the logged value, at round 100, all clients, pooled.*",
            "",
            "![Accuracy over rounds](figures/quick/own_curves.png)",
            "",
            "*The ten clients of each round before their local training, smoothed: so not the "
            "numbers of the table, which are of all clients. Dotted: logged, where the kit has "
            "the curve.*",
            END,
        ]
    )


def with_readme_part(text: str, results: Sequence[RunResult]) -> str:
    """A README with its part written anew.

    Raises:
        UserError: the marks are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"README.md lacks the lines {BEGIN} and {END}")
    return before + readme_part(results) + after


def _copy(results: Sequence[RunResult]) -> str:
    if all(result.config.dataset in EXACT for result in results):
        return ""
    return f" `{COPY}`: a re-compressed copy of CIFAR-10, so not the data of the logged runs."


def _marked(table: pd.DataFrame) -> pd.DataFrame:
    """Titles of data sets; a star at what is no exact copy."""

    def title(column: str) -> str:
        dataset, alpha = column.split()
        return f"{starred(dataset)}, α = {alpha}"

    return table.rename(columns={c: title(c) for c in table.columns if c != "method"})


def _markdown(table: pd.DataFrame) -> list[str]:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy()]
    return [f"| {' | '.join(row)} |" for row in rows]
