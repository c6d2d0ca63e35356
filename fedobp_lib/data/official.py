"""Readers of the official files: each downloads them into a folder and gives their images."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

# Images uint8 (N, H, W) or (N, H, W, C), labels int64 (N,), is_train bool (N,).
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

# MedMNIST 2.1, whose 58,850 OrganAMNIST images are the paper's number; 3.0 (record 10519652)
# leaves out 20 of them, and 77 of OrganCMNIST's 23,660.
MEDMNIST = "https://zenodo.org/records/6496656/files"


def read_digits() -> Arrays:
    """scikit-learn's 8x8 digits, enlarged to 28x28; the last fifth is the test part."""
    import torch
    import torch.nn.functional as F

    table = _digits_table()
    small = torch.from_numpy(table[:, :64]).float().reshape(-1, 1, 8, 8) * (255 / 16)
    large = F.interpolate(small, size=(24, 24), mode="bilinear", align_corners=False)
    images = F.pad(large, (2, 2, 2, 2))[:, 0].round().to(torch.uint8).numpy()
    return images, table[:, 64].astype(np.int64), np.arange(len(images)) < 0.8 * len(images)


def _digits_table() -> np.ndarray:
    """scikit-learn's digits (1797, 65): 64 pixels and the label."""
    # Importing scikit-learn takes longer than reading its file, and longer than a small run.
    found = importlib.util.find_spec("sklearn")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


def mnist_like(kind: str, **options: str) -> Callable[[Path], Arrays]:
    """The reader of a torchvision data set in MNIST's format: its class, and options of it."""

    def read(folder: Path) -> Arrays:
        from torchvision import datasets

        parts = [
            getattr(datasets, kind)(folder, train=train, download=True, **options)
            for train in (True, False)
        ]
        images = [part.data.numpy() for part in parts]
        labels = [part.targets.numpy().astype(np.int64) for part in parts]
        if kind == "EMNIST":
            # NIST's files hold the images transposed.
            images = [part.transpose(0, 2, 1) for part in images]
            if options["split"] == "letters":
                labels = [part - 1 for part in labels]
        return _pool(images, labels)

    return read


def cifar(kind: str) -> Callable[[Path], Arrays]:
    """The reader of `CIFAR10` or `CIFAR100`."""

    def read(folder: Path) -> Arrays:
        from torchvision import datasets

        parts = [getattr(datasets, kind)(folder, train=t, download=True) for t in (True, False)]
        return _pool([p.data for p in parts], [np.array(p.targets, np.int64) for p in parts])

    return read


def read_svhn(folder: Path) -> Arrays:
    """Street View House Numbers, without its extra part."""
    from torchvision import datasets

    parts = [datasets.SVHN(folder, split=split, download=True) for split in ("train", "test")]
    images = [part.data.transpose(0, 2, 3, 1) for part in parts]
    return _pool(images, [part.labels.astype(np.int64) for part in parts])


def medmnist(file: str, md5: str) -> Callable[[Path], Arrays]:
    """The reader of a file of MedMNIST; its validation part counts as training part."""

    def read(folder: Path) -> Arrays:
        from torchvision.datasets.utils import download_url

        download_url(f"{MEDMNIST}/{file}?download=1", str(folder), file, md5)
        with np.load(folder / file, allow_pickle=False) as official:
            images = [official[f"{part}_images"] for part in ("train", "val", "test")]
            labels = [official[f"{part}_labels"] for part in ("train", "val", "test")]
        labels = [part.reshape(-1).astype(np.int64) for part in labels]
        return _pool(
            [np.concatenate(images[:2]), images[2]], [np.concatenate(labels[:2]), labels[2]]
        )

    return read


def _pool(images: list[np.ndarray], labels: list[np.ndarray]) -> Arrays:
    is_train = np.arange(len(labels[0]) + len(labels[1])) < len(labels[0])
    return np.concatenate(images), np.concatenate(labels), is_train
