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
import http.client
import importlib.util
import os
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import urllib.error
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import paths
from .errors import UserError, unknown
from .npz import read_arrays

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
KEYS = ("images", "labels", "is_train")
TIMEOUT = 60.0  # seconds without a word from a server
NETWORK_ERRORS = (
    urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError
)  # fmt: skip
UNREACHABLE = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH)


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


@dataclass(frozen=True, eq=False)
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
    _copies: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    _copying: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and labels on a device; sent there once, however many runs use them."""
        with self._copying:
            if str(device) not in self._copies:
                arrays = (np.ascontiguousarray(a) for a in (self.images, self.labels))
                self._copies[str(device)] = tuple(torch.from_numpy(a).to(device) for a in arrays)
            return self._copies[str(device)]

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
            Two float32 arrays (C,); the deviation of a constant channel is 1.

        Raises:
            UserError: unknown kind.
        """
        if kind not in ("benchmark", "data"):
            raise unknown("normalization", kind, ("benchmark", "data"))
        spec = DATASETS.get(self.name)
        if kind == "benchmark" and spec is not None and spec.mean is not None:
            return np.float32(spec.mean), np.float32(spec.std)
        counts = np.zeros((self.shape[2], 256), np.int64)
        train = np.flatnonzero(self.is_train)
        # In blocks, as bincount makes eight bytes of each pixel.
        for start in range(0, len(train), 4096):
            block = self.images[train[start : start + 4096]]
            for channel, count in enumerate(counts):
                count += np.bincount(block[..., channel].ravel(), minlength=256)
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
        return _checked(name, _read_digits(), "scikit-learn's digits")
    path = _folder(directory) / f"{name}.npz"
    if not path.is_file() or Path(name).name != name:
        if name not in DATASETS:
            raise unknown("data set", name, _known(directory))
        if not fetch_missing:
            raise UserError(f"{paths.shown(path)} is missing; run `fedobp data fetch {name}`")
        fetch(name, directory)
    shown = paths.shown(path)
    try:
        arrays = read_arrays(path, KEYS)
    except (OSError, ValueError) as error:
        raise UserError(f"{shown} cannot be read ({error}); {_again(name)}") from error
    return _checked(name, tuple(arrays.values()), shown)


def is_here(name: str, directory: str | Path | None = None) -> bool:
    """Whether `load` would find the data set without a download.

    Raises:
        UserError: unknown name.
    """
    if name == "digits" or (_folder(directory) / f"{name}.npz").is_file():
        return True
    if name not in DATASETS:
        raise unknown("data set", name, _known(directory))
    return False


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
        # torchvision reports on standard output, which is for results, and sets no time limit.
        with contextlib.redirect_stdout(sys.stderr), _time_limit():
            images, labels, is_train = DATASETS[name].read(temporary)
        built = temporary / "built.npz"
        np.savez(built, images=images, labels=labels, is_train=is_train)
        os.replace(built, path)
    except urllib.error.HTTPError as error:
        raise UserError(
            f"the server of {name} answers {error.code} {error.reason}; "
            f"try later, or {_by_hand(name, folder)}"
        ) from error
    except NETWORK_ERRORS as error:
        raise UserError(_no_network(name, folder)) from error
    except OSError as error:
        if error.errno in UNREACHABLE:
            raise UserError(_no_network(name, folder)) from error
        raise UserError(
            f"cannot write {paths.shown(path)}: {error.strerror or error}; "
            "make room there or set FEDOBP_DATA to another folder"
        ) from error
    except RuntimeError as error:
        # torchvision's word for both a wrong checksum and mirrors that do not answer.
        if "orrupted" in str(error):
            raise UserError(
                f"the download of {name} is damaged (wrong checksum) and was thrown "
                f"away; run `fedobp data fetch {name}` again"
            ) from error
        raise UserError(_no_network(name, folder)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def listing(directory: str | Path | None = None) -> pd.DataFrame:
    """The registered data sets and the other files of the data folder.

    Columns: name, title, samples (None if the file is not here), classes, size, here (`yes`,
    `no`, `embedded` or `unreadable`), note. Image arrays are not read.
    """
    rows = []
    for name in _known(directory):
        spec = DATASETS.get(name)
        path = _folder(directory) / f"{name}.npz"
        shapes = _shapes(name, path)
        samples, size = (shapes[0], shapes[1:3]) if shapes else (None, spec and spec.shape[:2])
        here = "embedded" if name == "digits" else "yes" if shapes else "no"
        rows.append(
            {
                "name": name,
                "title": spec.title if spec else "a file of your own",
                "samples": samples,
                "classes": spec.classes if spec else None,
                "size": f"{size[0]}x{size[1]}" if size else None,
                "here": "unreadable" if path.is_file() and here == "no" else here,
                "note": spec.note if spec else "",
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({"samples": "Int64", "classes": "Int64"})


def _checked(name: str, arrays: Arrays, source: str) -> ImageData:
    images, labels, is_train = arrays
    spec = DATASETS.get(name)
    if images.ndim == 3:
        images = images[..., None]
    problem = None
    if images.ndim != 4 or images.dtype != np.uint8:
        problem = "images must be uint8 (N, H, W) or (N, H, W, C)"
    elif spec and images.shape[1:] != spec.shape:
        problem = f"images must be (N, {', '.join(map(str, spec.shape))})"
    elif labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        problem = f"labels must be {len(images)} integers"
    elif is_train.shape != (len(images),) or is_train.dtype != bool:
        problem = f"is_train must be {len(images)} booleans"
    elif not images.size or not is_train.any():
        problem = "there are no training images"
    elif labels.min() < 0 or (spec and labels.max() >= spec.classes):
        problem = f"labels must lie in 0..{spec.classes - 1 if spec else ''}"
    if problem:
        raise UserError(f"{source}: {problem}; {_again(name)}")
    labels = labels.astype(np.int64)
    digest = hashlib.blake2b(str(images.shape).encode(), digest_size=6)
    for array in (images, labels, is_train):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    classes = spec.classes if spec else int(labels.max()) + 1
    return ImageData(name, images, labels, is_train, classes, digest.hexdigest())


def _folder(directory: str | Path | None) -> Path:
    return Path(directory) if directory is not None else paths.data_dir()


def _known(directory: str | Path | None) -> list[str]:
    files = (path.stem for path in sorted(_folder(directory).glob("*.npz")))
    return list(dict.fromkeys([*DATASETS, *files]))


def _shapes(name: str, path: Path) -> tuple[int, ...] | None:
    """Shape of the images in a file, from its header alone; None if there is none."""
    if name == "digits":
        return (1797, 28, 28)
    try:
        with zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
            version = np.lib.format.read_magic(file)
            read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape = read(file)[0]
    except Exception:  # whatever a damaged file can raise; `load` says what is wrong
        return None
    return shape if len(shape) in (3, 4) else None


def _again(name: str) -> str:
    if name in DATASETS:
        return f"delete it and run `fedobp data fetch {name}`"
    return f"it must be an .npz with {', '.join(KEYS)}"


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


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

    table = _digits_table()
    small = torch.from_numpy(table[:, :64]).float().reshape(-1, 1, 8, 8) * (255 / 16)
    large = F.interpolate(small, size=(24, 24), mode="bilinear", align_corners=False)
    images = F.pad(large, (2, 2, 2, 2))[:, 0].round().to(torch.uint8).numpy()
    return images, table[:, 64].astype(np.int64), np.arange(len(images)) < 0.8 * len(images)


def _digits_table() -> np.ndarray:
    """scikit-learn's digits (1797, 65): 64 pixels and the label."""
    # Importing scikit-learn takes longer than reading its file, and longer than a small run.
    found = importlib.util.find_spec("sklearn")
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


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
        return _pool(
            [np.concatenate(images[:2]), images[2]], [np.concatenate(labels[:2]), labels[2]]
        )

    return read


def _pool(images: list[np.ndarray], labels: list[np.ndarray]) -> Arrays:
    is_train = np.arange(len(labels[0]) + len(labels[1])) < len(labels[0])
    return np.concatenate(images), np.concatenate(labels), is_train


# MedMNIST 2.1, whose 58,850 OrganAMNIST images are the paper's number; 3.0 (record 10519652)
# leaves out 20 of them, and 77 of OrganCMNIST's 23,660.
MEDMNIST = "https://zenodo.org/records/6496656/files"
GREY, COLOUR = (28, 28, 1), (32, 32, 3)

# The organ constants below were made for pixels in 0..255, but the authors' code applies them
# to pixels in [0, 1]: every normalized image is then nearly the same constant. `released` keeps
# that, since it made the published columns; `pixels="data"` shows the images as they are.
DATASETS: dict[str, DatasetSpec] = {
    "digits": DatasetSpec(
        "Handwritten digits (scikit-learn)", 10, GREY, lambda folder: _read_digits(),
        note="8x8, enlarged",
    ),
    "mnist": DatasetSpec(
        "MNIST", 10, GREY, _read_mnist_like("MNIST"), (0.1307,), (0.3015,)
    ),
    "fmnist": DatasetSpec(
        "Fashion-MNIST", 10, GREY, _read_mnist_like("FashionMNIST"), (0.286,), (0.3205,)
    ),
    "emnist": DatasetSpec(
        "EMNIST byclass", 62, GREY, _read_mnist_like("EMNIST", split="byclass"),
        (0.1736,), (0.3248,), "upright",
    ),
    "emnist_letters": DatasetSpec(
        "EMNIST letters", 26, GREY, _read_mnist_like("EMNIST", split="letters"),
        note="upright; labels from 0",
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
        (0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052), "without the extra part",
    ),
    "medmnistA": DatasetSpec(
        "OrganAMNIST", 11, GREY,
        _read_medmnist("organamnist.npz", "866b832ed4eeba67bfb9edee1d5544e6"),
        (118.7546,), (62.3489,), "MedMNIST 2.1",
    ),
    "medmnistC": DatasetSpec(
        "OrganCMNIST", 11, GREY,
        _read_medmnist("organcmnist.npz", "0afa5834fb105f7705a7d93372119a21"),
        (124.424,), (58.8092,), "MedMNIST 2.1",
    ),
}  # fmt: skip
