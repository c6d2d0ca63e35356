"""The registered data sets, a line each. One more line here registers one more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .official import Arrays, cifar, medmnist, mnist_like, read_digits, read_svhn


@dataclass(frozen=True)
class DatasetSpec:
    """A registered data set.

    Attributes:
        title: for people.
        classes: number of classes.
        shape: (height, width, channels).
        read: downloads the official files into a folder and returns images, labels, is_train.
        mean, std: per channel, on pixels in [0, 1], as the benchmark behind the paper has
            them; None: measured from the data.
        note: what one should know.
    """

    title: str
    classes: int
    shape: tuple[int, int, int]
    read: Callable[[Path], Arrays]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    note: str = ""


GREY, COLOUR = (28, 28, 1), (32, 32, 3)

# The organ constants below were made for pixels in 0..255, but the authors' code applies them
# to pixels in [0, 1]: every normalized image is then nearly the same constant. `released` keeps
# that, since it made the published columns; `pixels="data"` shows the images as they are.
DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(
        "Handwritten digits (scikit-learn)", 10, GREY, lambda folder: read_digits(),
        note="8x8, enlarged",
    ),
    "mnist": DatasetSpec(
        "MNIST", 10, GREY, mnist_like("MNIST"), (0.1307,), (0.3015,)
    ),
    "fmnist": DatasetSpec(
        "Fashion-MNIST", 10, GREY, mnist_like("FashionMNIST"), (0.286,), (0.3205,)
    ),
    "emnist": DatasetSpec(
        "EMNIST byclass", 62, GREY, mnist_like("EMNIST", split="byclass"),
        (0.1736,), (0.3248,), "upright",
    ),
    "emnist_letters": DatasetSpec(
        "EMNIST letters", 26, GREY, mnist_like("EMNIST", split="letters"),
        note="upright; labels from 0",
    ),
    "cifar10": DatasetSpec(
        "CIFAR-10", 10, COLOUR, cifar("CIFAR10"),
        (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201),
    ),
    "cifar100": DatasetSpec(
        "CIFAR-100", 100, COLOUR, cifar("CIFAR100"),
        (0.5071, 0.4865, 0.4409), (0.2009, 0.1984, 0.2023),
    ),
    "svhn": DatasetSpec(
        "Street View House Numbers", 10, COLOUR, read_svhn,
        (0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052), "without the extra part",
    ),
    "medmnistA": DatasetSpec(
        "OrganAMNIST", 11, GREY,
        medmnist("organamnist.npz", "866b832ed4eeba67bfb9edee1d5544e6"),
        (118.7546,), (62.3489,), "MedMNIST 2.1",
    ),
    "medmnistC": DatasetSpec(
        "OrganCMNIST", 11, GREY,
        medmnist("organcmnist.npz", "0afa5834fb105f7705a7d93372119a21"),
        (124.424,), (58.8092,), "MedMNIST 2.1",
    ),
}  # fmt: skip
