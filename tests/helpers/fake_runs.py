"""Finished runs made up in a moment: a folder with the files that a result is read from."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

from fedobp_lib.config import RunConfig
from fedobp_lib.paths import runs_dir
from fedobp_lib.runs.store import RunResult
from fedobp_lib.simulation import HISTORY, LAYERS

SIZES = {"conv1": 832, "conv2": 51264, "fc1": 524800, "classifier": 5130}
NUMBERS = count()


def fake_run(
    folder: Path,
    accuracy: float | list[float] = 50.0,
    *,
    tuned: float | None = None,
    shares: list[dict[str, float]] | None = None,
    summary: dict | None = None,
    **config,
) -> RunResult:
    """A run with the accuracies wanted.

    Args:
        folder: of all runs.
        accuracy: before local training, pooled: of all clients in the evaluated rounds, the last
            of which is the last round; the cohort has the same in every round up to there.
        tuned: after local training, in the last round.
        shares: personalized parameters by layer, a dict a round.
        summary: what the summary says besides.
        config: fields of `RunConfig`.
    """
    resolved = RunConfig(**config).resolved()
    values = accuracy if isinstance(accuracy, list) else [accuracy]
    every, rounds = resolved.rounds // len(values), resolved.rounds
    history = []
    for number in range(1, rounds + 1):
        value = values[min(len(values), -(-number // every)) - 1]
        history.append([number, "before", "cohort", "pooled", value, 1.0])
    for number, value in enumerate(values, 1):
        place = rounds if number == len(values) else number * every
        history.append([place, "before", "all", "pooled", value, 1.0])
        # What must not be taken for the published metric.
        history.append([place, "before", "all", "client_mean", value - 30, 1.0])
    if tuned is not None:
        history.append([rounds, "after", "all", "pooled", tuned, 1.0])
    layers = [
        [number, layer, SIZES[layer], personal]
        for number, row in enumerate(shares or [], 1)
        for layer, personal in row.items()
    ]
    personal = float(sum(shares[-1].values())) if shares else 0.0
    last = {"provenance": {"device": "none"}, "personalized_parameters": personal}
    last |= {"parameters": sum(SIZES.values()), "seconds_total": 1.0}
    last |= {"seconds_per_round": 0.5, "seconds_evaluation": 0.5}
    last["final"] = {"before": {"pooled": values[-1]}}
    if tuned is not None:
        last["final"]["after"] = {"pooled": tuned}
    run = folder / f"fake-{next(NUMBERS)}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"config": asdict(resolved)}))
    (run / "summary.json").write_text(json.dumps(last | (summary or {})))
    pd.DataFrame(history, columns=HISTORY).to_csv(run / "history.csv", index=False)
    pd.DataFrame(layers, columns=LAYERS).to_csv(run / "layers.csv", index=False)
    return RunResult(run)


def make_runs(configs):
    """Runs whose numbers are drawn; nothing is personal in the first round."""
    results = []
    for config in configs:
        rng = np.random.default_rng([config.seed, config.rounds])
        accuracy = [90 - 50 / n + rng.normal() for n in range(1, config.rounds + 1)]
        drawn = rng.integers(1, 50, (config.rounds, len(SIZES)))
        drawn[0] = 0
        shares = [dict(zip(SIZES, row.tolist(), strict=True)) for row in drawn]
        results.append(fake_run(runs_dir(), accuracy, shares=shares, **vars(config)))
    return results


def read(result, name):
    with open(result.directory / f"{name}.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))
