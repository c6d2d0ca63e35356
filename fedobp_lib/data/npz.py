"""Reading .npz files that may be anything."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def read_arrays(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of a file by name.

    Args:
        path: the file.
        names: of the arrays wanted.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read; the message is the reason, in a few words.
    """
    if Path(path).is_file() and not zipfile.is_zipfile(path):
        raise ValueError("not a whole .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file]
            if missing:
                raise ValueError(f"it lacks {missing[0]!r}")
            return {name: file[name] for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file can raise
        reason = str(error).splitlines() or [type(error).__name__]
        raise ValueError(reason[0]) from error
