"""What the paper does not say of Tables 1 and 6, and three sources can settle.

The paper shows accuracies before local training alone. These remarks of the kit are tested like the
paper's own sentences.
"""

from __future__ import annotations

from functools import partial

from ...paper.published import published_accuracy
from . import accuracy, training
from .claim import Claim

HERE = "not in the paper"
BOTH_TABLES = (("table", 1), ("table", 6))
RUN = f"from {training.COLUMNS} columns on that have every method the authors logged"
CIFAR100 = ("cifar100", 0.1, "fedobp")
PRINTED = published_accuracy().set_index(["dataset", "alpha", "method"])["accuracy_mean_percent"]
PRINTED_50 = float(PRINTED[CIFAR100])
PAIRED = f"from {training.COLUMNS} columns on"


def _remark(id: str, text: str, when: str, check, note: str = "") -> Claim:
    return Claim(id, BOTH_TABLES, HERE, text, when, check, "stages", note)


TRAINING_CLAIMS = (
    _remark(
        "fine-tuned-fedavg",
        "FedAvg after one round of local training is as good as FedOBP before it, or better.",
        "FedOBP's best before less FedAvg's last after: the 95 % bootstrap interval over columns "
        f"is not above 0, {PAIRED}",
        training.tuned_fedavg_as_good,
        "Matsuda et al. (arXiv 2206.13190) found it of personalized methods before. Two alphas of "
        "a data set share its images, so that the interval is somewhat too narrow.",
    ),
    _remark(
        "lead-before-training",
        "FedOBP's lead over FedAvg is one before local training; after it there is none.",
        f"on average over a point before, at most a point after, {PAIRED}",
        training.lead_gone_after_training,
    ),
    _remark(
        "best-before",
        "Before local training FedOBP is the best method in most columns.",
        f"best, or level with the best at two decimals, in over half of them, {RUN}",
        partial(training.best_in_most, stage="before"),
    ),
    _remark(
        "best-after",
        "After local training FedOBP is the best method in most columns.",
        f"as before, in the last round, {RUN}",
        partial(training.best_in_most, stage="after"),
    ),
    _remark(
        "close-after",
        "After local training the best method is nowhere a point ahead of the next.",
        f"in the last round, {RUN}",
        partial(training.leads_below_a_point, stage="after"),
    ),
    Claim(
        "cifar100-printed",
        (("table", 1),),
        "Table 1",
        f"FedOBP reaches {PRINTED_50:.2f} on CIFAR100, Dir(0.1).",
        "within one point of it",
        partial(accuracy.level_with, cell=CIFAR100, value=PRINTED_50),
        "accuracy",
    ),
)
