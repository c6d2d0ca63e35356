"""Numbers of parameters: of the networks (Tables 3 and 4) and personalized ones (Table 5).

Nothing here trains. What the paper prints stands beside what the networks and the quantile
rules of the kit give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import pandas as pd
import torch

from ..data.registry import DATASETS
from ..decoupling import QUANTILE_RULES, personal_mask, threshold
from ..errors import unknown
from ..models.networks import build_model
from ..models.parameters import ParameterLayout
from ..paper.published import (
    published_counts,
    published_layers,
    published_quantiles,
    published_resnet18,
    table5_quantile,
)
from ..runs.presets import PAPER_DATASETS
from ..runs.store import RunResult

PRINTED_IN = {"avgcnn": 3, "resnet18": 4}


@cache
def layout_of(dataset: str, model: str = "avgcnn") -> ParameterLayout:
    """Columns of a model for a registered data set; its file is not needed.

    Raises:
        UserError: unknown data set or model.
    """
    if dataset not in DATASETS:
        raise unknown("data set", dataset, DATASETS)
    spec = DATASETS[dataset]
    return ParameterLayout.of(build_model(model, spec.shape, spec.classes, seed=0))


def tensors(dataset: str, model: str = "avgcnn") -> pd.DataFrame:
    """Every tensor of a row: layer, tensor, shape (as PyTorch has it), count, trained.

    Tensors that are not trained are running statistics: averaged by the server like
    parameters, but never scored.
    """
    layout = layout_of(dataset, model)
    rows = []
    for (name, columns), shape in zip(layout.spans.items(), layout.shapes, strict=True):
        text = " x ".join(map(str, shape))
        trained = columns.start < layout.parameters
        rows.append([name.split(".")[0], name, text, columns.stop - columns.start, trained])
    return pd.DataFrame(rows, columns=["layer", "tensor", "shape", "count", "trained"])


def parameter_counts(datasets: Sequence[str] | None = None, model: str = "avgcnn") -> pd.DataFrame:
    """Parameters of each layer and in all, one row a data set; None: those of the paper."""
    rows = []
    for dataset in datasets or PAPER_DATASETS:
        layout, spec = layout_of(dataset, model), DATASETS[dataset]
        row = {
            "dataset": dataset,
            "image": " x ".join(map(str, spec.shape)),
            "classes": spec.classes,
        }
        row |= {layer: columns.stop - columns.start for layer, columns in layout.layers.items()}
        rows.append(row | {"parameters": layout.parameters})
    return pd.DataFrame(rows)


def printed_layers(dataset: str, model: str = "avgcnn") -> pd.DataFrame:
    """Table 3 or 4 as printed beside the layers of the kit.

    Columns: layer, printed_layer, formula, printed (the formula's value), built, and how many
    convolutions each has; missing where only one of the two has the layer. The last row sums.
    """
    spec, made = DATASETS[dataset], tensors(dataset, model)
    made = made[made["trained"]]
    built = pd.DataFrame(
        {
            "built": made.groupby("layer", sort=False)["count"].sum(),
            "built_convolutions": made.groupby("layer", sort=False)["shape"].agg(
                lambda shapes: sum(shape.count("x") == 3 for shape in shapes)
            ),
        }
    )
    sizes = {"CHANNELS": spec.shape[2], "CLASSES": spec.classes}
    table = published_layers(PRINTED_IN[model])
    table["printed"] = [
        pd.eval(formula, local_dict=sizes, engine="python") for formula in table["formula"]
    ]
    table = table.rename(columns={"convolutions": "printed_convolutions"}).set_index("layer")
    # Layers that only the paper has stand before the classifier.
    order = [*built.index[:-1], *table.index.difference(built.index), built.index[-1]]
    both = built.join(table, how="outer").loc[order].rename_axis("layer").reset_index()
    numbers = ["printed", "built", "printed_convolutions", "built_convolutions"]
    total = both[numbers].sum()
    both = pd.concat([both, pd.DataFrame([{"layer": "all", **total}])], ignore_index=True)
    return both[["layer", "printed_layer", "formula", *numbers]].astype(
        dict.fromkeys(numbers, "Int64")
    )


def counted(parameters: int, q: float, rule: str = "linear", seed: int = 0) -> int:
    """How many of P distinct scores in random order the kit's threshold leaves personal."""
    order = torch.Generator().manual_seed(seed)
    scores = torch.randperm(parameters, generator=order).double()
    return int(personal_mask(scores, threshold(scores, q, rule)).sum())


def closed_form(parameters: int, q: float, rule: str = "linear") -> int:
    """The same number, from q and P alone.

    Linear: P - 1 - floor(q (P - 1)). Inverse of the distribution function: P - ceil(q P).

    Raises:
        UserError: unknown rule.
    """
    exact = Fraction(str(q))  # as printed; 0.9999 is no binary fraction
    if rule == "linear":
        return parameters - 1 - math.floor(exact * (parameters - 1))
    if rule == "inverted_cdf":
        return parameters - max(math.ceil(exact * parameters), 1)
    raise unknown("quantile rule", rule, QUANTILE_RULES)


def table_5(
    datasets: Sequence[str] | None = None, alphas: Sequence[float] | None = None
) -> pd.DataFrame:
    """Table 5: what the quantile rules make of its q and AvgCNN's P.

    Columns: dataset, alpha, quantile, parameters, linear, inverted_cdf (counted on random
    scores), closed_form (linear), published, agrees (linear with published), remark.
    """
    table = published_quantiles()
    table = table[table["dataset"].isin(datasets or PAPER_DATASETS)]
    return _with_counts(table[table["alpha"].isin(alphas or table["alpha"])])


def counts_in_the_text() -> pd.DataFrame:
    """The counts that Section 4.2 gives for each score's best quantile; columns as `table_5`."""
    return _with_counts(published_counts())


def _with_counts(table: pd.DataFrame) -> pd.DataFrame:
    table = table.rename(columns={"personalized_parameters": "published"}).reset_index(drop=True)
    table["parameters"] = [layout_of(dataset).parameters for dataset in table["dataset"]]
    pairs = list(zip(table["parameters"], table["quantile"], strict=True))
    for rule in QUANTILE_RULES:
        table[rule] = [counted(size, q, rule) for size, q in pairs]
    table["closed_form"] = [closed_form(size, q) for size, q in pairs]
    table["published"] = table.pop("published")
    table["agrees"] = table["linear"] == table["published"]
    table["remark"] = [_remark(row) for row in table.itertuples()]
    return table


def _remark(row) -> str:
    """Why a published count may differ; empty where it does not."""
    if row.agrees:
        return ""
    if row.published == row.inverted_cdf:
        return "as inverted_cdf gives it"
    others = {f"{name}'s parameters": layout_of(name).parameters for name in PAPER_DATASETS}
    printed = printed_layers(row.dataset)["printed"].iloc[-1]
    others["the sum of Table 3 as printed"] = int(printed)
    for name, size in others.items():
        for rule in QUANTILE_RULES:
            if row.published == closed_form(size, row.quantile, rule):
                return f"does not follow from q and P; {name}, {size:,}, would give it by {rule}"
    return "does not follow from q and P"


def personalized_share(results: Sequence[RunResult]) -> pd.DataFrame:
    """What FedOBP's runs personalized in their last round, beside the share Table 7 prints.

    Columns: dataset, alpha, seed, quantile, parameters, personalized (mean over the clients of
    the round; a client's first round counts none), percent, published_percent.
    """
    rows = []
    for result in results:
        config, summary = result.config, result.summary
        if config.method == "fedobp":
            size, kept = summary["parameters"], summary["personalized_parameters"]
            q = config.settings["quantile"]
            q = table5_quantile(config.dataset, config.alpha) if q is None else q
            rows.append(
                [config.dataset, config.alpha, config.seed, q, size, kept, 100 * kept / size]
            )
    columns = ["dataset", "alpha", "seed", "quantile", "parameters", "personalized", "percent"]
    table = pd.DataFrame(rows, columns=columns)
    printed = published_resnet18().dropna(subset="personalized_percent")
    printed = printed.rename(columns={"personalized_percent": "published_percent"})
    printed = printed[["dataset", "alpha", "published_percent"]]
    return table.merge(printed, on=["dataset", "alpha"], how="left")
