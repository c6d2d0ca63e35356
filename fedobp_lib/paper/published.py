"""The published numbers, as data: Tables 1 and 3 to 8 of the paper, and counts in its text."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd

DEFAULT_QUANTILE = 0.9995

# The paper's names of methods, as the kit calls them.
METHOD_NAMES = {
    "Local-Only": "local-only",
    "FedAvg": "fedavg",
    "FedPer": "fedper",
    "APFL": "apfl",
    "LG-FedAvg": "lg-fedavg",
    "FedRep": "fedrep",
    "pFedFDA": "pfedfda",
    "FLUTE": "flute",
    "FedDPA": "feddpa",
    "FLOCO": "floco",
    "FedALA": "fedala",
    "FedSelect": "fedselect",
    "FedOBP": "fedobp",
}


@cache
def _read(name: str) -> pd.DataFrame:
    with (files(__package__) / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def published_accuracy() -> pd.DataFrame:
    """Tables 1 and 6: table, dataset, alpha, method, accuracy_mean_percent, accuracy_std_percent.

    `method` has the kit's names.
    """
    table = _read("accuracy_tables_1_and_6")
    return table.assign(method=table["method"].map(METHOD_NAMES))


def published_quantiles() -> pd.DataFrame:
    """Table 5: dataset, alpha, quantile, personalized_parameters."""
    return _read("quantiles_table_5").copy()


def table5_quantile(dataset: str, alpha: float) -> float:
    """FedOBP's quantile for a data set and alpha: Table 5's, else `DEFAULT_QUANTILE`."""
    table = _read("quantiles_table_5")
    found = table[(table["dataset"] == dataset) & (table["alpha"] == alpha)]["quantile"]
    return float(found.iloc[0]) if len(found) else DEFAULT_QUANTILE


def published_resnet18() -> pd.DataFrame:
    """Table 7: dataset, alpha, method, accuracy_percent, personalized_percent (FedOBP only).

    `method` has the kit's names.
    """
    table = _read("resnet18_table_7")
    return table.assign(method=table["method"].map(METHOD_NAMES))


def published_normalizations() -> pd.DataFrame:
    """Table 8: dataset, alpha, normalization, accuracy_percent."""
    return _read("ablation_table_8").copy()


def published_layers(table: int) -> pd.DataFrame:
    """The layers of Table 3 (AvgCNN) or 4 (ResNet-18) as printed.

    Columns: printed_layer, layer (the kit's name), convolutions, formula (number of parameters,
    in terms of CHANNELS and CLASSES).
    """
    rows = _read("layers_tables_3_and_4")
    return rows[rows["table"] == table].drop(columns="table").reset_index(drop=True)


def published_counts() -> pd.DataFrame:
    """Personalized parameters at the best quantile, as the text of Section 4.2 has them.

    Columns: dataset, score, quantile, personalized_parameters.
    """
    return _read("counts_section_4").copy()
