"""Whether a precision changes accuracies: runs in bf16 or tf32 beside the same runs in fp32."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from ..config import ResolvedConfig
from ..runs.store import RunResult
from .kept_runs import own_settings

KEY = ["dataset", "alpha", "method", "settings", "seed"]
EXACTLY = "fp32"


def beside_fp32(results: Sequence[RunResult]) -> pd.DataFrame:
    """Evaluations of all clients in another precision that a run in fp32 has too.

    The two runs differ in nothing else but in how long they ran and how often they were tested.

    Returns:
        dataset, alpha, method, settings, seed, round, stage, precision, accuracy and fp32
        (percent, all clients, pooled), difference (accuracy less fp32, points).
    """
    exact = {_same(r.config): r for r in results if r.config.precision == EXACTLY}
    frames = []
    for result in results:
        twin = exact.get(_same(result.config))
        if twin is None or result.config.precision == EXACTLY:
            continue
        both = pd.concat({"accuracy": _evaluations(result), EXACTLY: _evaluations(twin)}, axis=1)
        config = result.config
        names = [config.dataset, config.alpha, config.method, own_settings(config), config.seed]
        named = dict(zip(KEY, names, strict=True))
        frames.append(both.dropna().reset_index().assign(**named, precision=config.precision))
    columns = [*KEY, "round", "stage", "precision", "accuracy", EXACTLY, "difference"]
    if not frames:
        return pd.DataFrame(columns=columns)
    table = pd.concat(frames, ignore_index=True)
    difference = (table["accuracy"] - table[EXACTLY]).round(4)  # as the accuracies are kept
    return table.assign(difference=difference)[columns]


def _same(config: ResolvedConfig) -> str:
    """What two runs have in common that differ only in precision, length and tests."""
    values = asdict(config)
    for name in ("precision", "rounds", "eval_every", "eval_after", "eval_cohort"):
        del values[name]
    return json.dumps(values, sort_keys=True)


def _evaluations(result: RunResult) -> pd.Series:
    frame = result.history.query("scope == 'all' and average == 'pooled'")
    return frame.set_index(["round", "stage"])["accuracy"]
