"""All claims that are tested: the paper's and this kit's, in the order of tables and figures."""

from .about_figures import FIGURE_CLAIMS
from .about_tables import TABLE_CLAIMS
from .about_training import TRAINING_CLAIMS

CLAIMS = (*TABLE_CLAIMS, *TRAINING_CLAIMS, *FIGURE_CLAIMS)
