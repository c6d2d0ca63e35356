"""The protocols: what the paper's text leaves open, or says otherwise than its authors' code."""

from __future__ import annotations

from typing import TypedDict


class Protocol(TypedDict):
    """Fields of a run that a protocol decides, and the quantile rule."""

    momentum: float
    test_share: float
    quantile_rule: str
    pixels: str


# `released` is what the authors ran, `text` what the paper says.
PROTOCOLS: dict[str, Protocol] = {
    "released": {
        "momentum": 0.7,
        "test_share": 0.25,
        "quantile_rule": "linear",
        "pixels": "benchmark",
    },
    "text": {
        "momentum": 0.0,
        "test_share": 0.5,
        "quantile_rule": "inverted_cdf",
        "pixels": "data",
    },
}
