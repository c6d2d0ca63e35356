"""The runs of notebook 12: what Huang et al. (2022) claim of FedSpa, beside other methods.

Densities from a tenth to all: at 1.0 nothing is masked, so that FedSpa differs from FedAvg in that
clients count alike, and that alone; it is the control.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..config import RunConfig
from .presets import PRESETS, grid, listed

FEDAVG, FEDSPA = "fedavg", "fedspa"
DENSITIES = (0.1, 0.2, 0.5, 0.8, 1.0)
DENSITY = 0.5  # FedSpa's default, of which the claims are tested

# The personalized methods of the kit that were there before FedSpa.
PERSONALIZED = ("fedper", "lg-fedavg", "apfl", "fedrep")
BESIDE = (FEDAVG, *PERSONALIZED, "fedobp", "majority-class")

# What is looked at round by round, always on the digits: nothing of it is kept as a run.
STEPPED: dict[str, dict[str, Any]] = {
    "smoke": {"clients": 10, "participation": 0.3, "local_epochs": 1, "rounds": 6},
    "quick": {"test_share": 0.5},
}
ROUNDS = 60

OWN = {"quick": {"rounds": 8}}
TESTS = 40  # in a run, at most: accuracies at equal bytes need many


def sparse_runs(preset: str = "quick", **given: Any) -> list[RunConfig]:
    """FedSpa at each of `DENSITIES`, and `BESIDE`; see `presets.grid`.

    All clients are tested before local training only, up to `TESTS` times. `methods` are those
    beside FedSpa. The paper's data sets at the smaller alpha alone.
    """
    given = {name: value for name, value in given.items() if value is not None}
    beside = listed(given.pop("methods", None), "methods") or BESIDE
    given = OWN.get(preset, {}) | given
    if preset in PRESETS and len(PRESETS[preset].alphas) > 1:
        given = {"alphas": (0.1,)} | given
    names = [FEDSPA, *(name for name in beside if name != FEDSPA)]
    configs = []
    for config in grid(preset, **given, methods=names):
        every = max(1, config.resolved("cpu").rounds // TESTS)
        config = replace(config, eval_every=every, eval_after="never")
        of_each = [{"density": d} for d in DENSITIES] if config.method == FEDSPA else [{}]
        configs += [replace(config, settings={**config.settings, **own}) for own in of_each]
    return configs


def stepped(preset: str, rounds: int | None = None) -> RunConfig:
    """The federation that is looked at round by round; its settings of FedSpa are the defaults.

    Args:
        preset: `smoke` and `quick` are smaller.
        rounds: None: `ROUNDS`, fewer at `smoke`.
    """
    chosen: dict[str, Any] = {"rounds": ROUNDS} | STEPPED.get(preset, {})
    if rounds is not None:
        chosen["rounds"] = rounds
    return RunConfig(method=FEDSPA, eval_every=chosen["rounds"], eval_after="never", **chosen)


def named(config: RunConfig) -> str:
    """The method, and of FedSpa the density: a name for each line."""
    if config.method != FEDSPA:
        return config.method
    return fedspa_at(config.settings["density"])


def fedspa_at(density: float) -> str:
    """The name of FedSpa at a density."""
    return f"{FEDSPA} {density:g}"
