"""Runs of ours at round 100 beside what the paper's authors logged there.

    python benchmarks/logged_counterparts.py > benchmarks/logged_counterparts.csv

The paper's setting at momentum 0.7, alpha 0.1, 100 rounds, one seed. Runs that are not finished are
computed (with `--finished` they are left out); they need the data sets and take minutes each.
FedOBP has the score of the paper (obp) and that of the authors' code of January 2025 (saliency), at
the logged quantile; with the moving average its counterpart is the main run, without it the
ablation. FLUTE and FedDPA are as the benchmark behind the paper ran them. Accuracies are pooled
over all clients, in percent; `margin` is that of `fedobp compare --with logged`. Prints CSV;
device, versions and commit are those of the runs.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

import pandas as pd

from fedobp_lib import RunConfig, run
from fedobp_lib.paper.logged import logged_normalizations
from fedobp_lib.results.compare_logged import compare_logged
from fedobp_lib.runs.store import RunResult
from fedobp_lib.runs.sweeps import finished

ROUND = 100


def fedobp(dataset: str, quantile: float, score: str, ema: float, **run: Any) -> RunConfig:
    settings = {"quantile": quantile, "score": score, "normalization": "global", "ema": ema}
    return RunConfig(method="fedobp", dataset=dataset, settings=settings, **run)


CASES = (
    fedobp("cifar100", 0.99505, "obp", 0.0, precision="bf16"),
    fedobp("cifar100", 0.99505, "saliency", 0.0, precision="bf16"),
    fedobp("cifar100", 0.99505, "saliency", 0.5, precision="bf16"),
    fedobp("mnist", 0.9995, "obp", 0.5),
    fedobp("mnist", 0.9995, "saliency", 0.5),
    RunConfig(method="flute", dataset="mnist", settings={"benchmark": True}),
    RunConfig(method="feddpa", dataset="mnist", settings={"benchmark": True}),
)


def row(result: RunResult) -> dict[str, Any]:
    """A run beside its counterpart."""
    config = result.config
    table = compare_logged([result]).query("round == @ROUND").set_index("stage")
    settings = result.config.settings
    logged = {stage: table.loc[stage, "logged"] for stage in ("before", "after")}
    if config.method == "fedobp" and not settings["ema"]:
        ablation = logged_normalizations().query(
            "dataset == @config.dataset and normalization == 'global' and round == @ROUND"
        )
        logged = {"before": ablation["accuracy"].iloc[0], "after": None}
    made = result.summary["provenance"]
    told = {name: settings[name] for name in ("score", "ema", "benchmark") if name in settings}
    return {
        "dataset": config.dataset,
        "method": config.method,
        "settings": ", ".join(f"{name} {value}" for name, value in told.items()),
        "before": round(table.loc["before", "mean"], 2),
        "logged_before": logged["before"],
        "after": round(table.loc["after", "mean"], 2),
        "logged_after": logged["after"],
        "margin": round(table.loc["before", "margin"], 2),
        "rounds": ROUND,
        "seed": config.seed,
        "precision": config.precision,
        "run_id": result.run_id,
        **{name: made[name] for name in ("device", "threads", "torch", "commit")},
        "uncommitted_changes": made["uncommitted_changes"],
        "date": made["finished"][:10],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--finished", action="store_true", help="leave out what is not computed")
    options = parser.parse_args()
    configs = [replace(case, rounds=ROUND, eval_every=ROUND // 4) for case in CASES]
    results = finished(configs) if options.finished else [run(c, progress=True) for c in configs]
    pd.DataFrame(map(row, results)).to_csv(sys.stdout, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
