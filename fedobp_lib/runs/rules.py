"""What notebook 13 compares: rules and controls beside the quantile that was tuned for a data set.

Every number here was fixed before any run, and is one for all data sets:
- `FIXED_Q` is the kit's quantile for data sets that the paper's Table 5 does not have;
- `FIXED_COUNT` is the power of ten nearest to the geometric mean of Table 5's sixteen counts;
- what `held_out` tries and how much it holds out are FedOBP's defaults.
FedOBP with the whole classifier personal is FedPer, so FedPer is the row of the last layer alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..config import LARGEST, RunConfig
from ..data.registry import DATASETS
from ..decoupling import personal_count
from ..methods import find_method, make_settings
from .normalizations import avgcnn_layout

FIXED_Q = 0.9995
FIXED_COUNT = 100

# Where time is short: most of the images are for tests, small batches make the most of the others,
# and nothing is tested before the last round.
SMALL: dict[str, Any] = {
    "test_share": 0.6, "batch_size": 10, "eval_every": LARGEST, "eval_cohort": LARGEST,
}  # fmt: skip

# The folder of `figures/` that keeps the runs on MNIST, of so many rounds.
KEPT, KEPT_ROUNDS = "rules50", 50

AT_Q: dict[str, Any] = {"quantile": FIXED_Q}

REFERENCE, ONE_NUMBER, NO_NUMBER = "tuned", "one number", "no number"
CONTROL, OTHER = "control", "other method"


@dataclass(frozen=True)
class Variant:
    """One row of the comparison.

    Attributes:
        name: short.
        title: as people read it.
        kind: what it needs: `tuned` for the data set, `one number` for all of them, `no number`;
            or it is a `control` or an `other method`.
        method, settings: of its runs.
    """

    name: str
    title: str
    kind: str
    method: str
    settings: dict[str, Any]


def rule_variants(dataset: str) -> list[Variant]:
    """What is compared on a data set.

    The controls of equal counts need the size of the model, so they are left out for a data set
    that is not registered.
    """
    return [
        _fedobp("table5", "Table 5's quantile", REFERENCE),
        _fedobp("fixed", f"quantile {FIXED_Q}", ONE_NUMBER, **AT_Q),
        _fedobp("soft", f"soft merge, {FIXED_Q}", ONE_NUMBER, merge="soft", **AT_Q),
        _fedobp("layers", f"{FIXED_Q} in each layer", ONE_NUMBER, select="layers", **AT_Q),
        _fedobp("count", f"{FIXED_COUNT} parameters", ONE_NUMBER, **_count(FIXED_COUNT)),
        _fedobp("knee", "knee of the scores", NO_NUMBER, select="knee"),
        _fedobp("held_out", "best on held-out data", NO_NUMBER, select="held_out"),
        _fedobp("taylor", f"Taylor score, {FIXED_Q}", CONTROL, score="taylor", **AT_Q),
        _fedobp("random", f"random, {FIXED_Q}", CONTROL, score="random", **AT_Q),
        *(_equal_counts(dataset) if dataset in DATASETS else ()),
        Variant("fedper", "FedPer (the classifier)", OTHER, "fedper", {}),
        Variant("fedavg", "FedAvg", OTHER, "fedavg", {}),
    ]


def _equal_counts(dataset: str) -> list[Variant]:
    """As many parameters as the fixed quantile keeps, as the classifier's biases are, and as the
    whole classifier is."""
    layout = avgcnn_layout(dataset)
    at_q = personal_count(layout.parameters, FIXED_Q)
    drawn: dict[str, Any] = {"score": "random", "among": "classifier", **_count(at_q)}
    biases, classifier = (
        columns.stop - columns.start
        for columns in (layout.spans["classifier.bias"], layout.layers["classifier"])
    )
    return [
        _fedobp("random_classifier", f"{at_q} random of classifier", CONTROL, **drawn),
        _fedobp("biases", f"the {biases} biases", CONTROL, among="biases", **_count(biases)),
        _fedobp("as_biases", f"{biases} parameters", CONTROL, **_count(biases)),
        _fedobp("as_fedper", f"{classifier:,} parameters", CONTROL, **_count(classifier)),
    ]


def variant_of(config: RunConfig) -> Variant | None:
    """Which variant a run is; None: it is none of them."""
    method = find_method(config.method)
    own = make_settings(method, config.settings)
    for variant in rule_variants(config.dataset):
        if variant.method == config.method and make_settings(method, variant.settings) == own:
            return variant
    return None


def _fedobp(name: str, title: str, kind: str, **settings: Any) -> Variant:
    return Variant(name, title, kind, "fedobp", settings)


def _count(count: int) -> dict[str, Any]:
    return {"select": "count", "count": count}
