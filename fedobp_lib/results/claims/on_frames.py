"""Claims that a notebook tests on frames of its own, such as those of neighbouring papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .claim import Claim
from .table import verdict


def checked_claims(claims: Sequence[Claim], evidence: Mapping[str, Any]) -> pd.DataFrame:
    """Claims, and what the evidence says to them.

    Args:
        claims: whose `evidence` are names in `evidence`.
        evidence: frames by name.

    Returns:
        id, section, claim, holds_when, measured, verdict (see `claims_table`), note; a row a claim.
    """
    rows = []
    for claim in claims:
        finding = claim.check(evidence[claim.evidence])
        told = [claim.id, claim.section, claim.text, claim.holds_when, finding.measured]
        rows.append([*told, verdict(finding), claim.note])
    columns = ["id", "section", "claim", "holds_when", "measured", "verdict", "note"]
    return pd.DataFrame(rows, columns=columns)
