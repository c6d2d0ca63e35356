"""Every plot. A figure is drawn from a tidy frame of `results`, saved as CSV beside it.

FedOBP is the one thick, dark orange line. Other methods share a few muted, colour-blind-safe
colours and are told apart by line style and by a label at the end of the line, so that the
figures also work in grey.
"""

from .accuracy import plot_accuracy
from .beside_logs import plot_beside_logs
from .convergence import MANY, plot_convergence, plot_history, plot_run
from .costs import plot_costs
from .importance import plot_quantiles, plot_scores
from .layers import plot_layers, plot_variant_layers
from .partial import plot_bearing, plot_byzantine, plot_splits
from .partitions import plot_partition
from .personal import plot_personal
from .ranks import plot_ranks
from .rules import plot_differences, plot_rules
from .scores import nines, plot_quantile_curves
from .sparse import plot_bytes, plot_densities, plot_gradients
from .style import NORMALIZATION_STYLE, PRINTED, method_style, save, save_table
from .workflow import plot_workflow

__all__ = [
    "MANY",
    "NORMALIZATION_STYLE",
    "PRINTED",
    "method_style",
    "nines",
    "plot_accuracy",
    "plot_bearing",
    "plot_beside_logs",
    "plot_bytes",
    "plot_byzantine",
    "plot_convergence",
    "plot_costs",
    "plot_densities",
    "plot_differences",
    "plot_gradients",
    "plot_history",
    "plot_layers",
    "plot_partition",
    "plot_personal",
    "plot_quantile_curves",
    "plot_quantiles",
    "plot_ranks",
    "plot_rules",
    "plot_run",
    "plot_scores",
    "plot_splits",
    "plot_variant_layers",
    "plot_workflow",
    "save",
    "save_table",
]
