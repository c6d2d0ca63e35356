"""What runs of ours say of neighbouring papers, and of FedOBP's quantile.

It is read from the verdicts that notebooks 11 to 13 write into `figures/`; of MNIST, from the runs
that the repository keeps.
"""

from __future__ import annotations

import pandas as pd

from .. import paths
from ..errors import UserError
from ..runs.files import read_csv
from ..runs.rules import KEPT_ROUNDS
from . import rules
from .claims.about_rules import RULE_CLAIMS
from .claims.on_frames import checked_claims
from .found import Finding

COLUMNS = ("id", "measured", "verdict")
ORDER = ("holds", "does not hold", "undecided", "other data", "not run")


def verdicts(name: str, preset: str = "quick") -> pd.DataFrame:
    """The claims that a notebook has tested: id, measured, verdict and more; none without its file.

    Raises:
        UserError: the file is not as it was written.
    """
    file = paths.project_root() / "figures" / preset / f"{name}.csv"
    return read_csv(file, COLUMNS) if file.is_file() else pd.DataFrame(columns=list(COLUMNS))


def told(claims: pd.DataFrame) -> str:
    """Each claim by its short name with what was measured, verdict by verdict."""
    if claims.empty:
        return "Its verdicts are not here; executing the notebook writes them."
    parts = []
    for verdict in ORDER:
        of_it = claims[claims["verdict"] == verdict]
        if len(of_it):
            each = (
                str(row.id).replace("-", " ")
                + (f" ({row.measured})" if isinstance(row.measured, str) else "")
                for row in of_it.itertuples()
            )
            parts.append(f"*{verdict}*: {'; '.join(each)}")
    return ". ".join(parts) + "."


def partial_personalization() -> Finding:
    return Finding(
        "Partial personalization (Mishchenko et al. 2023), on digits",
        f"Four claims of the abstract of FFGG. {told(verdicts('claims_partial'))}",
        "notebook 11",
    )


def sparse_models() -> Finding:
    return Finding(
        "FedSpa (Huang et al. 2022), on digits",
        f"Its abstract, taken apart. {told(verdicts('claims_fedspa'))}",
        "notebook 12",
    )


def without_a_quantile() -> Finding:
    return Finding(
        "FedOBP without a tuned quantile, on digits",
        "Three seeds; intervals are Student's, 95 %, paired by seed. "
        f"{told(verdicts('claims_rules'))}",
        "notebook 13",
    )


def without_a_quantile_on_mnist() -> Finding:
    try:
        runs = rules.variant_runs(rules.runs_on_mnist())
    except UserError:  # an installed package is without the kept runs
        runs = rules.variant_runs([])
    said, advice = pd.DataFrame(columns=list(COLUMNS)), ""
    if len(runs):
        said, advice = checked_claims(RULE_CLAIMS, {"rules": runs}), f" {rules.advice(runs)}"
    return Finding(
        "FedOBP without a tuned quantile, on MNIST",
        f"The same after {KEPT_ROUNDS} rounds on 100 clients; seeds: {runs['seed'].nunique()}. "
        f"{told(said)}{advice}",
        "notebook 13",
    )


NEIGHBOUR_FINDINGS = (
    partial_personalization,
    sparse_models,
    without_a_quantile,
    without_a_quantile_on_mnist,
)
