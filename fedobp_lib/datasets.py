"""Pooled images and labels: official files, fetched once, kept as one .npz a data set.

A data set is `DATA_DIR/NAME.npz` with `images` uint8 (N, H, W) or (N, H, W, C), `labels` int64
(N,) and `is_train` bool (N,), the official training and test part. Any such file can be used
by its name; that is how a data set of one's own is added. `digits` is embedded in scikit-learn
and needs no file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
import urllib.error
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from . import paths
from .errors import UserError, unknown

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
KEYS = ("images", "labels", "is_train")


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


@dataclass(frozen=True)
class ImageData:
    """A data set in memory.

    Attributes:
        name: its name.
        images: uint8 (N, H, W, C).
        labels: int64 (N,), 0-based.
        is_train: bool (N,), the official training part.
        classes: number of classes.
        fingerprint: 12 hex digits of a hash of the content.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    is_train: np.ndarray
    classes: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image."""
        return self.images.shape[1:]

    def normalization(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel, for pixels scaled to [0, 1].

        Args:
            kind: `benchmark` (the constants of the benchmark behind the paper, where it has
                some) or `data` (measured on the training part).

        Returns:
            Two float32 arrays (C,).
        """
        spec = DATASETS.get(self.name)
        if kind == "benchmark" and spec is not None and spec.mean is not None:
            return np.float32(spec.mean), np.float32(spec.std)
        counts = [
            np.bincount(self.images[self.is_train, ..., c].ravel(), minlength=256)
            for c in range(self.shape[2])
        ]
        levels = np.arange(256) / 255
        mean = np.array([np.average(levels, weights=c) for c in counts])
        square = np.array([np.average(levels**2, weights=c) for c in counts])
        std = np.sqrt(np.maximum(square - mean**2, 0))
        return np.float32(mean), np.float32(np.where(std > 0, std, 1))


def load(name: str, directory: str | Path | None = None, fetch_missing: bool = True) -> ImageData:
    """Read a data set, fetching it first if its file is missing.

    Args:
        name: a registered name, or that of a file in the data folder.
        directory: the data folder; None: `paths.data_dir()`.
        fetch_missing: download official files if needed.

    Raises:
        UserError: unknown name, no network, or a file that is not a data set.
    """
    if name == "digits":
        return _checked(name, _read_digits(), DATASETS[name].classes, "scikit-learn's digits")
    path = _folder(directory) / f"{name}.npz"
    if not path.is_file():
        if name not in DATASETS:
            raise unknown("data set", name, _known(directory))
        if not fetch_missing:
            raise UserError(f"{paths.shown(path)} is missing; run `fedobp data fetch {name}`")
        fetch(name, directory)
    shown = paths.shown(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = tuple(file[key] for key in KEYS)
    except KeyError as error:
        raise UserError(f"{shown} lacks {error.args[0].split()[0]!r}; {_again(name)}") from None
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{shown} cannot be read ({reason}); {_again(name)}") from error
    classes = DATASETS[name].classes if name in DATASETS else None
    return _checked(name, arrays, classes, shown)


def fetch(name: str, directory: str | Path | None = None, force: bool = False) -> Path:
    """Download the official files of a data set, check them, and write its .npz.

    The file appears whole or not at all; what was downloaded is removed again.

    Args:
        name: a registered name.
        directory: the data folder; None: `paths.data_dir()`.
        force: also if the file is there.

    Returns:
        Path of the .npz.

    Raises:
        UserError: unknown name, no network, a damaged download, or no room on the disk.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if name == "digits":
        raise UserError("digits is embedded in scikit-learn; there is nothing to fetch")
    folder = _folder(directory)
    path = folder / f"{name}.npz"
    if path.is_file() and not force:
        return path
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
        # torchvision reports on standard output, which is for results.
        with contextlib.redirect_stdout(sys.stderr):
            images, labels, is_train = DATASETS[name].read(temporary)
        built = temporary / "built.npz"
        np.savez(built, images=images, labels=labels, is_train=is_train)
        os.replace(built, path)
    except urllib.error.HTTPError as error:
        raise UserError(f"the server of {name} answers {error.code} {error.reason}; "
                        f"try later, or {_by_hand(name, folder)}") from error
    except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
        raise UserError(_no_network(name, folder)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EEXIST, errno.ENOTDIR):
            raise UserError(f"cannot write {paths.shown(path)}: {error.strerror}") from error
        raise UserError(_no_network(name, folder)) from error
    except RuntimeError as error:
        # torchvision's word for both a wrong checksum and mirrors that do not answer.
        if "orrupted" in str(error):
            raise UserError(f"the download of {name} is damaged (wrong checksum) and was thrown "
                            f"away; run `fedobp data fetch {name}` again") from error
        raise UserError(_no_network(name, folder)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def listing(directory: str | Path | None = None) -> pd.DataFrame:
    """The registered data sets and the other files of the data folder.

    Columns: name, title, samples (None if the file is not here), classes, size, here (`yes`,
    `no` or `embedded`). Image arrays are not read.
    """
    rows = []
    for name in _known(directory):
        spec = DATASETS.get(name)
        shapes = _shapes(name, _folder(directory) / f"{name}.npz")
        samples, size = (shapes[0], shapes[1:3]) if shapes else (None, spec and spec.shape[:2])
        rows.append(
            {
                "name": name,
                "title": spec.title if spec else "a file of your own",
                "samples": samples,
                "classes": spec.classes if spec else None,
                "size": f"{size[0]}x{size[1]}" if size else None,
                "here": "embedded" if name == "digits" else "yes" if shapes else "no",
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"samples": "Int64", "classes": "Int64"})


def _checked(name: str, arrays: Arrays, classes: int | None, source: str) -> ImageData:
    images, labels, is_train = arrays
    if images.ndim == 3:
        images = images[..., None]
    problem = None
    if images.ndim != 4 or images.dtype != np.uint8:
        problem = "images must be uint8 (N, H, W) or (N, H, W, C)"
    elif labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        problem = f"labels must be {len(images)} integers"
    elif is_train.shape != (len(images),) or is_train.dtype != bool:
        problem = f"is_train must be {len(images)} booleans"
    elif not len(images) or not is_train.any():
        problem = "there are no training images"
    elif labels.min() < 0 or (classes is not None and labels.max() >= classes):
        problem = f"labels must lie in 0..{classes - 1 if classes else '...'}"
    if problem:
        raise UserError(f"{source}: {problem}; {_again(name)}")
    labels = labels.astype(np.int64)
    digest = hashlib.blake2b(str(images.shape).encode(), digest_size=6)
    for array in (images, labels, is_train):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return ImageData(
        name, images, labels, is_train, classes or int(labels.max()) + 1, digest.hexdigest()
    )


def _folder(directory: str | Path | None) -> Path:
    return Path(directory) if directory is not None else paths.data_dir()


def _known(directory: str | Path | None) -> list[str]:
    files = (path.stem for path in sorted(_folder(directory).glob("*.npz")))
    return list(dict.fromkeys([*DATASETS, *files]))


def _shapes(name: str, path: Path) -> tuple[int, ...] | None:
    """Shape of the images in a file, from its header alone."""
    if name == "digits":
        return (1797, 28, 28)
    try:
        with zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
            version = np.lib.format.read_magic(file)
            read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            return read(file)[0]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _again(name: str) -> str:
    if name in DATASETS:
        return f"delete it and run `fedobp data fetch {name}`"
    return f"it must be an .npz with {', '.join(KEYS)}"


def _by_hand(name: str, folder: Path) -> str:
    return f"put {name}.npz, made elsewhere, into {paths.shown(folder)}/"


def _no_network(name: str, folder: Path) -> str:
    return (
        f"{name} is not here and its server cannot be reached; connect to a network and run "
        f"`fedobp data fetch {name}`, or {_by_hand(name, folder)}"
    )


def _read_digits() -> Arrays:
    """scikit-learn's 8x8 digits, enlarged to 28x28; the last fifth is the test part."""
    import torch
    import torch.nn.functional as F
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    large = F.interpolate(small, size=(24, 24), mode="bilinear", align_corners=False)
    images = F.pad(large, (2, 2, 2, 2))[:, 0].round().to(torch.uint8).numpy()
    return images, digits.target.astype(np.int64), np.arange(len(images)) < 0.8 * len(images)


def _read_mnist_like(kind: str, **options: str) -> Callable[[Path], Arrays]:
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


def _read_cifar(kind: str) -> Callable[[Path], Arrays]:
    def read(folder: Path) -> Arrays:
        from torchvision import datasets

        parts = [getattr(datasets, kind)(folder, train=t, download=True) for t in (True, False)]
        return _pool([p.data for p in parts], [np.array(p.targets, np.int64) for p in parts])

    return read


def _read_svhn(folder: Path) -> Arrays:
    from torchvision import datasets

    parts = [datasets.SVHN(folder, split=split, download=True) for split in ("train", "test")]
    images = [part.data.transpose(0, 2, 3, 1) for part in parts]
    return _pool(images, [part.labels.astype(np.int64) for part in parts])


def _read_medmnist(file: str, md5: str) -> Callable[[Path], Arrays]:
    def read(folder: Path) -> Arrays:
        from torchvision.datasets.utils import download_url

        download_url(f"{MEDMNIST}/{file}?download=1", str(folder), file, md5)
        with np.load(folder / file, allow_pickle=False) as official:
            images = [official[f"{part}_images"] for part in ("train", "val", "test")]
            labels = [official[f"{part}_labels"] for part in ("train", "val", "test")]
        labels = [part.reshape(-1).astype(np.int64) for part in labels]
        return _pool([np.concatenate(images[:2]), images[2]],
                     [np.concatenate(labels[:2]), labels[2]])

    return read


def _pool(images: list[np.ndarray], labels: list[np.ndarray]) -> Arrays:
    is_train = np.arange(len(labels[0]) + len(labels[1])) < len(labels[0])
    return np.concatenate(images), np.concatenate(labels), is_train


MEDMNIST = "https://zenodo.org/records/10519652/files"
GREY, COLOUR = (28, 28, 1), (32, 32, 3)

# The organ constants below were made for pixels in 0..255, but the authors' code applies them
# to pixels in [0, 1]: every normalized image is then nearly the same constant. `released` keeps
# that, since it made the published columns; `pixels="data"` shows the images as they are.
DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(
        "Handwritten digits (scikit-learn)", 10, GREY, lambda folder: _read_digits()
    ),
    "mnist": DatasetSpec(
        "MNIST", 10, GREY, _read_mnist_like("MNIST"), (0.1307,), (0.3015,)
    ),
    "fmnist": DatasetSpec(
        "Fashion-MNIST", 10, GREY, _read_mnist_like("FashionMNIST"), (0.286,), (0.3205,)
    ),
    "emnist": DatasetSpec(
        "EMNIST byclass", 62, GREY, _read_mnist_like("EMNIST", split="byclass"),
        (0.1736,), (0.3248,),
    ),
    "emnist_letters": DatasetSpec(
        "EMNIST letters", 26, GREY, _read_mnist_like("EMNIST", split="letters"),
    ),
    "cifar10": DatasetSpec(
        "CIFAR-10", 10, COLOUR, _read_cifar("CIFAR10"),
        (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201),
    ),
    "cifar100": DatasetSpec(
        "CIFAR-100", 100, COLOUR, _read_cifar("CIFAR100"),
        (0.5071, 0.4865, 0.4409), (0.2009, 0.1984, 0.2023),
    ),
    "svhn": DatasetSpec(
        "Street View House Numbers", 10, COLOUR, _read_svhn,
        (0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052),
    ),
    "medmnistA": DatasetSpec(
        "OrganAMNIST", 11, GREY,
        _read_medmnist("organamnist.npz", "68e3f8846a6bd62f0c9bf841c0d9eacc"),
        (118.7546,), (62.3489,),
    ),
    "medmnistC": DatasetSpec(
        "OrganCMNIST", 11, GREY,
        _read_medmnist("organcmnist.npz", "b9ceb9546e10131b32923c5bbeaea2b1"),
        (124.424,), (58.8092,),
    ),
}  # fmt: skip
