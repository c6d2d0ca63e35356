"""Table 8, Figures 11 and 12: FedOBP's scores scaled in several ways (the paper's Appendix C.5).

The quantiles are those of the authors' logs where there are some. They chose the quantile of
"with CLS", which is one of the classifier's scores alone, so that about as many parameters stay
personal as without; for other data sets the kit does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ..config import RunConfig
from ..data.registry import DATASETS
from ..decoupling import personal_count
from ..models.networks import build_model
from ..models.parameters import ParameterLayout
from ..paper.logged import logged_normalizations
from ..paper.published import table5_quantile

CLASSIFIER_ONLY = "global_classifier_only"
SAME_QUANTILE = "classifier_same_quantile"

# Keys as in the published Table 8. LayerNorm is what the authors ran, which scales each tensor.
NORMALIZATIONS: dict[str, dict[str, Any]] = {
    "none": {"normalization": "none"},
    "layer": {"normalization": "tensor"},
    "global": {"normalization": "global"},
    CLASSIFIER_ONLY: {"normalization": "global", "classifier_only": True},
}

# Two more: LayerNorm as the text reads, and the classifier alone at the quantile of the others.
ALL_NORMALIZATIONS: dict[str, dict[str, Any]] = {
    **NORMALIZATIONS,
    "layer_of_the_text": {"normalization": "layer"},
    SAME_QUANTILE: {"normalization": "global", "classifier_only": True},
}

NORMALIZATION_TITLES = {  # the first four as the paper calls them
    "none": "NoNorm",
    "layer": "LayerNorm",
    "global": "GlobalNorm w/o CLS",
    CLASSIFIER_ONLY: "GlobalNorm with CLS",
    "layer_of_the_text": "LayerNorm by layer",
    SAME_QUANTILE: "with CLS, same q",
}


def normalization_settings(config: RunConfig) -> list[dict[str, Any]]:
    """FedOBP's settings for each of `ALL_NORMALIZATIONS` on a run's data set and alpha.

    Those of `none` are empty of a quantile where none was logged, so that the run is that of the
    other experiments.
    """
    dataset, alpha = config.dataset, config.alpha
    logged = _logged_quantiles().get((dataset, alpha), {})
    quantile = logged.get("none")
    common = {} if quantile is None else {"quantile": quantile}
    matched = logged.get(CLASSIFIER_ONLY)
    if matched is None and dataset in DATASETS:
        matched = matched_quantile(dataset, table5_quantile(dataset, alpha))
    own: dict[str, dict[str, Any]] = {
        CLASSIFIER_ONLY: {} if matched is None else {"quantile": matched},
        SAME_QUANTILE: {"quantile": quantile or table5_quantile(dataset, alpha)},
    }
    return [{**settings, **own.get(name, common)} for name, settings in ALL_NORMALIZATIONS.items()]


def normalization_of(config: RunConfig) -> str | None:
    """Which of `ALL_NORMALIZATIONS` a run of FedOBP is; None: another combination."""

    def key(settings: Mapping[str, Any]) -> tuple[Any, Any]:
        return settings.get("normalization", "none"), settings.get("classifier_only", False)

    names = {key(settings): name for name, settings in reversed(ALL_NORMALIZATIONS.items())}
    name = names.get(key(config.settings))
    if name == CLASSIFIER_ONLY and config.settings.get("quantile") in _whole_quantiles(config):
        return SAME_QUANTILE
    return name


def matched_quantile(dataset: str, q: float) -> float:
    """A quantile of the classifier's scores that keeps as many parameters as `q` of all scores.

    Args:
        dataset: a registered one; its file is not needed.
        q: of all scores of AvgCNN.
    """
    layout = avgcnn_layout(dataset)
    columns = layout.layers["classifier"]
    last = columns.stop - columns.start - 1
    kept = min(personal_count(layout.parameters, q), last)
    # The middle of the quantiles that keep so many by linear interpolation.
    return round((last - kept + 0.5) / last, 6) if kept else 1.0


def _whole_quantiles(config: RunConfig) -> tuple[float, ...]:
    """Quantiles that the other normalizations have on this data set and alpha."""
    logged = _logged_quantiles().get((config.dataset, config.alpha), {})
    return (logged.get("none", table5_quantile(config.dataset, config.alpha)),)


@cache
def _logged_quantiles() -> dict[tuple[str, float], dict[str, float]]:
    found: dict[tuple[str, float], dict[str, float]] = {}
    for row in logged_normalizations().itertuples():
        found.setdefault((row.dataset, row.alpha), {})[row.normalization] = row.quantile
    return found


@cache
def avgcnn_layout(dataset: str) -> ParameterLayout:
    """The columns of AvgCNN for a registered data set, whose file is not needed."""
    spec = DATASETS[dataset]
    return ParameterLayout.of(build_model("avgcnn", spec.shape, spec.classes, seed=0))
