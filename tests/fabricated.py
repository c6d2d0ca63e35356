"""Finished runs made up on disk: figures, tables and estimates of any size without computing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from fedobp_lib.config import RunConfig
from fedobp_lib.runs import RunResult

LAYERS = {"conv1": 832, "conv2": 51264, "fc1": 524800, "classifier": 5130}


def make_run(folder: Path, config: RunConfig, accuracies=None, layers=None, **summary) -> RunResult:
    """Write a run into `folder` as if it had been computed.

    Args:
        config: of the run.
        accuracies: of all clients and of the cohort, before training, round by round; None:
            drawn from the seed.
        layers: personalized parameters (rounds, 4 layers); None: drawn, nothing in round 1.
        summary: what the summary says, beyond the number of personalized parameters.
    """
    config = config.resolved()
    rng = np.random.default_rng([config.seed, config.rounds])
    rounds = np.arange(1, config.rounds + 1)
    if accuracies is None:
        accuracies = 90 - 50 / rounds + rng.normal(0, 1, config.rounds)
    if layers is None:
        layers = rng.integers(1, 50, (config.rounds, len(LAYERS))).astype(float)
        layers[0] = 0
    folder.mkdir(parents=True)
    history = pd.concat(
        pd.DataFrame(
            {"round": rounds, "stage": "before", "scope": scope, "average": "pooled",
             "accuracy": accuracies, "loss": 1.0}
        )
        for scope in ("cohort", "all")
    )  # fmt: skip
    rows = [
        (number, layer, size, layers[number - 1][place])
        for number in rounds
        for place, (layer, size) in enumerate(LAYERS.items())
    ]
    columns = ["round", "layer", "parameters", "personalized"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "layers.csv", index=False)
    history.to_csv(folder / "history.csv", index=False)
    known = {"personalized_parameters": float(np.sum(layers[-1])), **summary}
    (folder / "config.json").write_text(json.dumps({"config": asdict(config)}))
    (folder / "summary.json").write_text(json.dumps(known))
    return RunResult(folder)
