"""What the paper says that its tables and figures show, checked on finished runs.

Each `Claim` of `about_tables` and `about_figures` quotes the paper and says when it holds. A claim
about all rivals is settled against FedOBP by one rival, but for it only when every method of the
published table was run; until then it is `undecided`.
"""

from .claim import Claim
from .statements import CLAIMS
from .table import claims_about, claims_table

__all__ = ["CLAIMS", "Claim", "claims_about", "claims_table"]
