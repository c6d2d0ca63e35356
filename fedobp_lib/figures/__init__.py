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
from .partitions import plot_partition
from .ranks import plot_ranks
from .style import method_style, save, save_table
from .workflow import plot_workflow

__all__ = [
    "MANY",
    "convergence_frame",
    "method_style",
    "plot_accuracy",
    "plot_convergence",
    "plot_history",
    "plot_partition",
    "plot_quantiles",
    "plot_ranks",
    "plot_scores",
    "plot_workflow",
    "rounds_to_reach",
    "save",
    "save_table",
    "score_histogram",
    "smooth",
]
