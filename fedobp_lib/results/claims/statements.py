"""All claims of the paper that are tested, in the order of its tables and figures."""

from .about_figures import FIGURE_CLAIMS
from .about_tables import TABLE_CLAIMS

CLAIMS = (*TABLE_CLAIMS, *FIGURE_CLAIMS)
