"""What the paper's authors logged themselves, read from their public result repositories.

Two of them hold the runs of the benchmark behind the paper:

- `uglyghost/FedOBP_results` (January 2025): runs at momentum 0.7, with the evaluations of rounds
  100, 200, 300 and 400 of all clients, the accuracy of every round's cohort, and the personal
  parameters of each layer;
- `tian0920/SeqFedEDT_exp_results` (May 2025): the same benchmark at momentum 0, and three sheets
  with the best accuracy of each run.

All have seed 42 and a test share of 0.25. Accuracies are pooled over the test samples of all
clients ("all") or of a round's clients ("cohort"), in percent, `before` or `after` local training.
Of Fashion-MNIST only round 400 is here, and no curves of MNIST and Fashion-MNIST: they are kept
out, so that they can check the kit from outside. The numbers are facts from the logs; nothing is
computed here but their arrangement.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd

LOGGED_ROUNDS = (100, 200, 300, 400)

# The repositories' names of the ablation's variants, as the kit calls them.
_NORMALIZATIONS = {
    "NoNorm_ALL": "none",
    "LayerNorm_ALL": "layer",
    "GlobalNorm_ALL": "global",
    "GlobalNorm_CLS": "global_classifier_only",
}
_SCORES = {"Gradient": "gradient", "Fisher": "fisher"}  # all others are FedOBP's
_RUN = ["experiment", "dataset", "alpha", "method", "variant", "quantile", "run"]


@cache
def _read(name: str) -> pd.DataFrame:
    # pandas decides by the ending whether the file is compressed.
    return pd.read_csv(str(files(__package__) / "authors" / name))


def logged_runs() -> pd.DataFrame:
    """Every logged run at momentum 0.7 and its settings.

    Columns: experiment (accuracy, scores or ablation), dataset, alpha, method, variant, quantile,
    run, rounds_logged, evaluations, momentum, test_share, seed, normalization, ema (coefficient of
    the moving average; NaN: none).
    """
    return _read("runs.csv").copy()


def logged_accuracy() -> pd.DataFrame:
    """Accuracy of all clients at the evaluated rounds, of every method and data set.

    Columns: dataset, alpha, method, momentum, run (1, 2, ... of one configuration), round, stage,
    accuracy. What was not evaluated is left out.
    """
    parts = []
    for name, momentum in (("evaluations.csv", 0.7), ("momentum0_evaluations.csv", 0.0)):
        frame = _read(name)
        if "experiment" in frame:
            frame = frame[frame["experiment"] == "accuracy"]
        frame = frame.assign(momentum=momentum, run=frame.get("run", 1))
        parts.append(frame)
    keys = ["dataset", "alpha", "method", "momentum", "run", "round"]
    return _by_stage(pd.concat(parts, ignore_index=True), keys)


def logged_sheets() -> pd.DataFrame:
    """The result sheets at momentum 0: dataset, alpha, method, sheet (1 to 3), accuracy.

    Best of the evaluated rounds, before local training.
    """
    return _read("momentum0_sheets.csv")[["dataset", "alpha", "method", "sheet", "accuracy"]].copy()


def logged_curves() -> pd.DataFrame:
    """Accuracy of every round's cohort at momentum 0.7, as logged, not smoothed.

    Columns: dataset, alpha, method, run, round, stage, accuracy.
    """
    keys = ["dataset", "alpha", "method", "run", "round"]
    return _by_stage(_read("curves.csv.gz"), keys)


def logged_scores() -> pd.DataFrame:
    """Figures 4, 8 and 9: accuracy of all clients before local training, by score and quantile.

    Columns: dataset, alpha, score (gradient, fisher or obp), quantile, ema, round, accuracy. The
    curves of `obp` are scaled globally and averaged over rounds; those of `fisher` are runs of
    FedDPA, so the quantile is one of each tensor.
    """
    frame = _with_settings("scores")
    frame["score"] = frame["variant"].map(_SCORES).fillna("obp")
    frame = frame.rename(columns={"before": "accuracy"})
    return frame[["dataset", "alpha", "score", "quantile", "ema", "round", "accuracy"]]


def logged_normalizations() -> pd.DataFrame:
    """Table 8, Figures 11 and 12: accuracy of all clients before local training.

    Columns: dataset, alpha, normalization (keys as in the published Table 8), quantile, round,
    accuracy. `layer` scales each tensor by itself; with the classifier alone the quantile is one
    of the classifier's scores.
    """
    frame = _with_settings("ablation")
    frame["normalization"] = frame["variant"].map(_NORMALIZATIONS)
    frame = frame.rename(columns={"before": "accuracy"})
    return frame[["dataset", "alpha", "normalization", "quantile", "round", "accuracy"]]


def logged_layers() -> pd.DataFrame:
    """Figures 5 and 10: personal parameters of each tensor, mean over ten clients.

    Columns: dataset, round, layer, tensor, personal, size. The logs count groups of ten clients:
    after round 100 ten groups are those of a test of all clients, so `round` runs to about 440.
    """
    return _read("layers.csv.gz").copy()


def _with_settings(experiment: str) -> pd.DataFrame:
    evaluations = _read("evaluations.csv")
    evaluations = evaluations[evaluations["experiment"] == experiment]
    settings = _read("runs.csv")[[*_RUN, "ema"]]
    return evaluations.merge(settings, on=_RUN, how="left", validate="many_to_one")


def _by_stage(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    tidy = frame.melt(keys, ["before", "after"], var_name="stage", value_name="accuracy")
    return tidy[tidy["accuracy"] > 0].reset_index(drop=True)
