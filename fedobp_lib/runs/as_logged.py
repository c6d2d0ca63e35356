"""The methods' settings as the authors' logged runs had them, as far as the kit can.

Each method's own defaults follow its own paper. Here is what the benchmark behind the FedOBP paper
ran instead; what the kit does not offer stands in each method's first lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ..paper.logged import logged_runs

# FedOBP's are in the logs; see `logged_settings`.
BENCHMARK: Mapping[str, dict[str, Any]] = {
    "apfl": {"sample_weights": True},
    "feddpa": {"benchmark": True},
    "fedrep": {"sample_weights": True},
    "floco": {"endpoints": 10, "rho": 0.1, "tau": 11},  # it counts rounds from 0
    "flute": {"benchmark": True},
    "lg-fedavg": {"global_layers": "conv1"},
}


def logged_settings(method: str, dataset: str, alpha: float) -> dict[str, Any]:
    """A method's settings in the logged run of a data set and alpha.

    FedOBP: the logged quantile, scaling and moving average, and the score of the authors' code of
    that time. Without a log of it, and for methods that need nothing: empty, the defaults.
    """
    if method == "fedobp":
        return dict(_fedobp().get((dataset, alpha), {}))
    return dict(BENCHMARK.get(method, {}))


@cache
def _fedobp() -> dict[tuple[str, float], dict[str, Any]]:
    runs = logged_runs().query("experiment == 'accuracy' and method == 'fedobp'")
    return {
        (row.dataset, row.alpha): {
            "quantile": row.quantile,
            "score": "saliency",
            "normalization": row.normalization,
            "ema": row.ema,
        }
        for row in runs.sort_values("run").itertuples()
    }
