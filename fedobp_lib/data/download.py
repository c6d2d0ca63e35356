"""Official files, fetched once and kept as one .npz a data set."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import shutil
import socket
import ssl
import sys
import tempfile
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import paths
from ..errors import UserError, unknown
from .registry import DATASETS

TIMEOUT = 60.0  # seconds without a word from a server
NETWORK_ERRORS = (
    urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException, ssl.SSLError
)  # fmt: skip
UNREACHABLE = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH)


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
    folder = Path(directory) if directory is not None else paths.data_dir()
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
