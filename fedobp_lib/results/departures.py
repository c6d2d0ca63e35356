"""How runs depart from the paper's setting, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

from ..config import PAPER_SIZE, ResolvedConfig, RunConfig
from ..runs.presets import PRESETS
from ..runs.store import RunResult

AS_IN_THE_PAPER = "as in the paper"
PAPER_SEEDS = len(PRESETS["paper"].seeds)

# A field of a run, and how its value is told where it is not the paper's.
FIELDS: dict[str, Callable[[Any], str]] = {
    "protocol": "protocol {}".format,
    "model": "model {}".format,
    "pretrained": lambda yes: "ImageNet weights" if yes else "no ImageNet weights",
    "partition": lambda path: "a split from a file" if path else "a drawn split",
    "clients": "{} clients".format,
    "participation": "{:.0%} a round".format,
    "min_samples": "at least {} samples a client".format,
    "test_share": "test share {}".format,
    "pixels": "pixels {}".format,
    "rounds": lambda n: "1 round" if n == 1 else f"{n} rounds",
    "local_epochs": lambda n: "1 local epoch" if n == 1 else f"{n} local epochs",
    "batch_size": "batch {}".format,
    "lr": "learning rate {}".format,
    "momentum": "momentum {}".format,
    "precision": "precision {}".format,
    "eval_every": "tested every {} rounds".format,
    "eval_cohort": "clients of a round tested every {} rounds".format,
}


def setting_of(results: Sequence[RunResult], runs: Callable[..., list[RunConfig]]) -> str:
    """How runs depart from those that the paper's experiment consists of.

    Args:
        results: finished runs.
        runs: the experiment, a function of `runs.experiments`; its preset `paper` is the standard.

    Returns:
        `as in the paper`, or such as `20 rounds, 1 seed`; empty for no runs.
    """
    if not results:
        return ""
    told: dict[str, None] = {}
    for result in results:
        told |= dict.fromkeys(_departures(result.config, runs))
    seeds = len({result.config.seed for result in results})
    if seeds != PAPER_SEEDS:
        told["1 seed" if seeds == 1 else f"{seeds} seeds"] = None
    return ", ".join(told) or AS_IN_THE_PAPER


def _departures(config: ResolvedConfig, runs: Callable[..., list[RunConfig]]) -> list[str]:
    papers = _papers(runs, config.dataset, config.alpha, config.method, config.protocol)
    paper = papers[0]
    # Tests at every quarter of a shorter run are the paper's habit at a smaller size.
    quarter = max(1, config.rounds // 4)
    papers_value = {name: getattr(paper, name) for name in FIELDS} | {
        "protocol": "released",
        "eval_every": quarter,
    }
    if config.partition is not None:
        # The file decides these.
        papers_value |= {n: getattr(config, n) for n in ("clients", "min_samples", "test_share")}
    told = [
        tell(getattr(config, name))
        for name, tell in FIELDS.items()
        if getattr(config, name) != papers_value[name]
    ]
    if all(config.settings != known.settings for known in papers):
        told += [f"{k} {v}" for k, v in config.settings.items() if v != paper.settings[k]]
    return told


@lru_cache(maxsize=256)
def _papers(
    runs: Callable[..., list[RunConfig]], dataset: str, alpha: float, method: str, protocol: str
) -> list[ResolvedConfig]:
    """The paper's runs; of the protocol's own settings, those of the protocol that was run."""
    found = runs("paper", datasets=[dataset], alphas=[alpha], methods=[method], seeds=[0])
    size = {"protocol": protocol} | asdict(PAPER_SIZE)
    # An experiment may have a number of rounds of its own.
    return [replace(c, **(size | {"rounds": c.rounds or size["rounds"]})).resolved() for c in found]
