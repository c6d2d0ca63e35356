"""Every plot. A figure is drawn from a tidy frame that is saved as CSV beside it.

FedOBP is the one thick, dark orange line. Other methods share a few muted, colour-blind-safe
colours and are told apart by line style and by a label at the end of the line, so that the
figures also work in grey.
"""

from .accuracy import plot_accuracy
from .convergence import (
    MANY,
    convergence_frame,
    plot_convergence,
    plot_history,
    rounds_to_reach,
    smooth,
)
from .importance import plot_quantiles, plot_scores, score_histogram
from .layers import layer_frame, layer_table, plot_layers, plot_variant_layers, variant_layers
from .partitions import plot_partition
from .ranks import plot_ranks
from .scores import nines, plot_quantile_curves, quantile_frame, score_peaks
from .style import NORMALIZATION_STYLE, method_style, save, save_table
from .workflow import plot_workflow

__all__ = [
    "MANY",
    "NORMALIZATION_STYLE",
    "convergence_frame",
    "layer_frame",
    "layer_table",
    "method_style",
    "nines",
    "plot_accuracy",
    "plot_convergence",
    "plot_history",
    "plot_layers",
    "plot_partition",
    "plot_quantile_curves",
    "plot_quantiles",
    "plot_ranks",
    "plot_scores",
    "plot_variant_layers",
    "plot_workflow",
    "quantile_frame",
    "rounds_to_reach",
    "save",
    "save_table",
    "score_histogram",
    "score_peaks",
    "smooth",
    "variant_layers",
]
