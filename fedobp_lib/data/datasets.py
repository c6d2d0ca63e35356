"""Pooled images and labels: official files, fetched once, kept as one .npz a data set.

A data set is `DATA_DIR/NAME.npz` with `images` uint8 (N, H, W) or (N, H, W, C), `labels` int64
(N,) and `is_train` bool (N,), the official training and test part. Any such file can be used
by its name; that is how a data set of one's own is added. `digits` is embedded in scikit-learn
and needs no file.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from .. import paths
from ..errors import UserError, unknown
from .download import fetch
from .images import ImageData
from .npz import read_arrays
from .official import Arrays, read_digits
from .registry import DATASETS

KEYS = ("images", "labels", "is_train")
FEW = 1000  # so many classes may lack images; of more, no more than half


def load(name: str, directory: str | Path | None = None, fetch_missing: bool = True) -> ImageData:
    """Read a data set, fetching it first if its file is missing.

    Args:
        name: a registered name, or that of a file in the data folder.
        directory: the data folder; None: `paths.data_dir()`.
        fetch_missing: download official files if needed.

    Raises:
        UserError: unknown name, no network, or a file that is not a data set.
    """
    path = locate(name, directory, fetch_missing)
    if path is None:
        return _checked(name, read_digits(), "scikit-learn's digits")
    shown = paths.shown(path)
    try:
        arrays = read_arrays(path, KEYS)
    except (OSError, ValueError) as error:
        raise UserError(f"{shown} cannot be read ({error}); {_again(name)}") from error
    images, labels, is_train = arrays.values()
    return _checked(name, (images, labels, is_train), shown)


def locate(
    name: str, directory: str | Path | None = None, fetch_missing: bool = True
) -> Path | None:
    """The file of a data set, fetched first if it is missing; None for the embedded digits.

    Args and errors are those of `load`; the file is not read.
    """
    if name == "digits":
        return None
    path = _folder(directory) / f"{name}.npz"
    if not path.is_file() or Path(name).name != name:
        if name not in DATASETS:
            raise unknown("data set", name, _known(directory))
        if not fetch_missing:
            raise UserError(f"{paths.shown(path)} is missing; run `fedobp data fetch {name}`")
        fetch(name, directory)
    return path


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
    elif labels.max() >= max(FEW, 2 * (distinct := len(np.unique(labels)))):
        # The classifier has a row for each number up to the largest.
        problem = f"labels must count from 0; of {distinct} different ones the largest is " + str(
            labels.max()
        )
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
