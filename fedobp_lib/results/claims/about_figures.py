"""What the paper says that its figures show, sentence by sentence.

Where the paper's words give no bound ("comparable", "slightly"), or a number without a deviation,
one percentage point is the bound.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ...runs.experiments import FIRST_FOUR, LAST_FOUR
from . import accuracy, convergence, layers, scores
from .accuracy import RIVALS
from .claim import Claim
from .convergence import SHARE_REACHED
from .finding import every


def _curve_claim(
    figure: int, id: str, section: str, text: str, when: str, check, note: str = ""
) -> Claim:
    return Claim(id, (("figure", figure),), section, text, when, check, "curves", note)


def _peak_claim(figure: int, dataset: str, score: str, section: str, text: str, **given: Any):
    place = f"q={given['quantile']:g}" if "quantile" in given else f"q above {given['above']:g}"
    return Claim(
        f"peak-{dataset}-{score}",
        (("figure", figure),),
        section,
        text,
        f"the highest accuracy over the quantiles run is at {place}",
        partial(scores.peak, dataset=dataset, score=score, **given),
        "scores",
        note="CIFAR10's model has 878,538 parameters, CIFAR100's 924,708: a tenth of it is 92,471."
        if "87,853" in text
        else "",
    )


def _shares_claim(figure: int, dataset: str, section: str, text: str, **given: Any) -> Claim:
    (first, last), (a, b), (c, d) = given["rounds"], given["classifier"], given["conv1"]
    return Claim(
        f"shares-{dataset}",
        (("figure", figure),),
        section,
        text,
        f"mean share over rounds {first} to {last}: classifier in {a} to {b}, conv1 in {c} to {d}",
        partial(layers.shares_between, dataset=dataset, **given),
        "layers",
    )


FINAL = "its smoothed curve ends above that of every other method of Table 1"
FAST = f"no other method reaches {SHARE_REACHED:.0%} of FedOBP's best value in fewer rounds"

CONVERGENCE = (
    _curve_claim(
        2, "figure2-cifar10", "4.2",
        "On CIFAR10, FedOBP achieves the highest accuracy and comparable convergence.", FINAL,
        convergence.on_curves(accuracy.ahead, 0.1, ["cifar10"], rivals=RIVALS),
    ),
    _curve_claim(
        2, "figure2-cifar10-others", "4.2",
        "pFedFDA and FedPer also show good convergence reaching above 85%. Other methods, such "
        "as APFL, FLUTE and FedAL, converge slowly, with final accuracies below 75%.",
        "so end their smoothed curves; FedAL read as FedALA",
        partial(
            convergence.ends_between, dataset="cifar10", alpha=0.1,
            bounds={
                "pfedfda": (85, np.inf), "fedper": (85, np.inf), "apfl": (0, 75),
                "flute": (0, 75), "fedala": (0, 75),
            },
        ),
    ),
    _curve_claim(
        2, "figure2-fastest", "4.2",
        "On CIFAR100 and EMNIST, FedOBP displays the fastest convergence and highest final "
        "accuracy compared to all alternative solutions.",
        f"{FAST}, and {FINAL}",
        every(
            *(partial(convergence.fastest, dataset=d, alpha=0.1) for d in ("cifar100", "emnist")),
            convergence.on_curves(accuracy.ahead, 0.1, ["cifar100", "emnist"], rivals=RIVALS),
        ),
    ),
    _curve_claim(
        2, "figure2-svhn", "4.2",
        "FedOBP demonstrates comparable convergence on SVHN while achieving best final accuracy.",
        FINAL, convergence.on_curves(accuracy.ahead, 0.1, ["svhn"], rivals=RIVALS),
    ),
    _curve_claim(
        3, "figure3-best", "4.2",
        "FedOBP shows best accuracy with comparable convergence", FINAL,
        convergence.on_curves(accuracy.ahead, 0.5, FIRST_FOUR, rivals=RIVALS),
    ),
    _curve_claim(
        3, "figure3-optimal", "4.2",
        "achieving optimal results at approximately 200 epochs for CIFAR10 and 200 epochs for "
        "CIFAR100, respectively",
        "its smoothed curve comes within one point of its best in rounds 150 to 250",
        every(
            *(
                partial(convergence.peak_round, dataset=d, alpha=0.5, about=200)
                for d in FIRST_FOUR[:2]
            )
        ),
        note="The paper's epochs are communication rounds.",
    ),
    _curve_claim(
        3, "figure3-svhn", "4.2",
        "FedOBP demonstrates fastest convergence, achieving the first position of accuracy in SVHN",
        f"{FAST}, and {FINAL}",
        every(
            partial(convergence.fastest, dataset="svhn", alpha=0.5),
            convergence.on_curves(accuracy.ahead, 0.5, ["svhn"], rivals=RIVALS),
        ),
    ),
    *(
        _curve_claim(
            figure, f"figure{figure}-mnist-fmnist", "C.2",
            "On MNIST and FMNIST, FedOBP outperforms or is slightly inferior to other methods in "
            "terms of accuracy and convergence rates.",
            "its smoothed curve ends at most one point below the best",
            convergence.on_curves(
                accuracy.near, alpha, ["mnist", "fmnist"], rivals=RIVALS, may_lead=True
            ),
        )
        for figure, alpha in ((6, 0.1), (7, 0.5))
    ),
    *(
        _curve_claim(
            figure, f"figure{figure}-medmnist", "C.2",
            "on MEDMNISTA and MEDMNISTC, it slightly lags behind all other methods in accuracy "
            "but demonstrates faster convergence",
            f"its smoothed curve ends at most one point from the best of the others, and {FAST}",
            every(
                convergence.on_curves(accuracy.near, alpha, LAST_FOUR[2:], rivals=RIVALS),
                *(partial(convergence.fastest, dataset=d, alpha=alpha) for d in LAST_FOUR[2:]),
            ),
        )
        for figure, alpha in ((6, 0.1), (7, 0.5))
    ),
    _curve_claim(
        6, "figure6-others", "C.2",
        "LG-FedAvg and pFedFDA also demonstrate competitive performance, surpassing 67% and 66% "
        "accuracy on MEDMNISTA and MEDMNISTC under α = 0.1, respectively.",
        "so end their smoothed curves",
        every(
            *(
                partial(
                    convergence.ends_between, dataset=dataset, alpha=0.1,
                    bounds={"lg-fedavg": (least, np.inf), "pfedfda": (least, np.inf)},
                )
                for dataset, least in (("medmnistA", 67), ("medmnistC", 66))
            )
        ),
    ),
)  # fmt: skip

CIFAR10_PEAKS = (
    "for CIFAR10, I_G(·) peaks at quantile q = 0.1, I_F(·) at q = 0.7, and I_O(·) at q = 0.9999"
)
CIFAR100_PEAKS = (
    "On CIFAR100, I_G(·) peaks at quantile q = 0.9 (87,853), I_F(·) at quantile q = 0.9 (87,853), "
    "and I_O(·) at q = 0.9998 (185)."
)
MNIST_PEAKS = (
    "I_G(·) requires approximately 60% personalized parameters, I_F(·) needs 30%, while I_O(·) "
    "only requires less than 0.1% on MNIST"
)
FMNIST_PEAKS = (
    "For FMNIST, I_G(·) peaks at q = 0.1, I_F(·) reaches its maximum at quantile q = 0.4, and "
    "I_O(·) peaks at q = 0.99993."
)
SCORE_CLAIMS = (
    Claim(
        "rise-then-decline", (("figure", 4), ("figure", 8), ("figure", 9)), "4.2 and C.3",
        "Across all datasets, as the quantile q increases, ... all three scores initially rise "
        "and then decline.",
        "on every data set run, each score's highest accuracy is above those at the smallest and "
        "the largest quantile",
        scores.rise_and_decline,
        "scores",
        note="At q=1 nothing is personal, whatever the score.",
    ),
    _peak_claim(4, "cifar10", "gradient", "4.2", CIFAR10_PEAKS, quantile=0.1),
    _peak_claim(4, "cifar10", "fisher", "4.2", CIFAR10_PEAKS, quantile=0.7),
    _peak_claim(4, "cifar10", "obp", "4.2", CIFAR10_PEAKS, quantile=0.9999),
    _peak_claim(4, "cifar100", "gradient", "4.2", CIFAR100_PEAKS, quantile=0.9),
    _peak_claim(4, "cifar100", "fisher", "4.2", CIFAR100_PEAKS, quantile=0.9),
    _peak_claim(4, "cifar100", "obp", "4.2", CIFAR100_PEAKS, quantile=0.9998),
    _peak_claim(8, "mnist", "gradient", "C.3", MNIST_PEAKS, quantile=0.4),
    _peak_claim(8, "mnist", "fisher", "C.3", MNIST_PEAKS, quantile=0.7),
    _peak_claim(8, "mnist", "obp", "C.3", MNIST_PEAKS, above=0.999),
    _peak_claim(8, "fmnist", "gradient", "C.3", FMNIST_PEAKS, quantile=0.1),
    _peak_claim(8, "fmnist", "fisher", "C.3", FMNIST_PEAKS, quantile=0.4),
    _peak_claim(8, "fmnist", "obp", "C.3", FMNIST_PEAKS, quantile=0.99993),
    Claim(
        "stable-medmnist", (("figure", 9),), "C.3",
        "For MEDMNISTA and MEDMNISTC, the OBP score shows stable performance across various "
        "quantile ranges compared to the gradient and Fisher-based scores.",
        "over the quantiles run, I_O's highest accuracy less its lowest is the smallest of three",
        partial(scores.stable, datasets=LAST_FOUR[2:]),
        "scores",
    ),
)  # fmt: skip

CIFAR_SHARES = (
    "On CIFAR10 and CIFAR100, this distribution stabilizes between 300 and 450 epochs, with the "
    "classifier layer reaching 0.9 to 1.0 and conv1 stabilizing at 0.0 to 0.1."
)
MEDMNIST_SHARES = (
    "MEDMNISTA and MEDMNISTC stability is observed from 50 to 450 epochs, with the classifier "
    "layer at 0.8 to 1.0 and conv1 at 0.0 to 0.2."
)
LAYER_CLAIMS = (
    Claim(
        "conv1-to-classifier", (("figure", 5), ("figure", 10)), "4.2 and C.4",
        "Across all datasets, a consistent trend is observed where the proportion of personalized "
        "parameters in the first convolutional layer (conv1) gradually decreases, while the "
        "proportion in the classifier layer increases over time.",
        "from the first to the last quarter of the rounds, conv1's share falls and the "
        "classifier's grows, on every data set run",
        layers.first_layer_to_last,
        "layers",
    ),
    *(
        _shares_claim(
            5, dataset, "4.2", CIFAR_SHARES,
            rounds=(300, 450), classifier=(0.9, 1.0), conv1=(0.0, 0.1),
        )
        for dataset in ("cifar10", "cifar100")
    ),
    _shares_claim(
        5, "emnist", "4.2",
        "In EMNIST, stability is reached around 250 to 450 epochs, with the classifier layer at "
        "0.7 to 0.8 and conv1 at 0.2 to 0.3.",
        rounds=(250, 450), classifier=(0.7, 0.8), conv1=(0.2, 0.3),
    ),
    _shares_claim(
        5, "svhn", "4.2",
        "For SHVN, stability occurs between 300 to 450 epochs, with the classifier layer at 0.7 "
        "to 0.9 and conv1 at 0.1 to 0.3.",
        rounds=(300, 450), classifier=(0.7, 0.9), conv1=(0.1, 0.3),
    ),
    _shares_claim(
        10, "mnist", "C.4",
        "On MNIST stability is achieved between 350 to 450 epochs, with the classifier layer "
        "reaching 0.4 to 0.8 and conv1 stabilizing at 0.2 to 0.6.",
        rounds=(350, 450), classifier=(0.4, 0.8), conv1=(0.2, 0.6),
    ),
    _shares_claim(
        10, "fmnist", "C.4",
        "FMNIST stability occurs around 250 to 450 epochs, with the classifier layer at 0.5 to "
        "0.6 and conv1 at 0.4 to 0.5.",
        rounds=(250, 450), classifier=(0.5, 0.6), conv1=(0.4, 0.5),
    ),
    *(
        _shares_claim(
            10, dataset, "C.4", MEDMNIST_SHARES,
            rounds=(50, 450), classifier=(0.8, 1.0), conv1=(0.0, 0.2),
        )
        for dataset in LAST_FOUR[2:]
    ),
)  # fmt: skip

FIGURE_CLAIMS = (*CONVERGENCE, *SCORE_CLAIMS, *LAYER_CLAIMS)
