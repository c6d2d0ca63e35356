"""A changed bit in any file that the kit reads: found and told, or of no consequence.

Of the files of a run see `runs/test_integrity.py`, of checkpoints `runs/test_checkpoint_faults.py`.
"""

import random

import numpy as np
import pytest

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.data.datasets import load
from fedobp_lib.data.partition import Partition, dirichlet_partition
from fedobp_lib.paths import data_dir
from fedobp_lib.runs.archive import MEMBERS, export_runs, import_runs
from fedobp_lib.runs.store import folders, is_finished

ENDS = 700  # bytes at each end, where tables are: every one of them


def flips(content, seed=0, more=150):
    """The content with one bit changed: of each byte at the ends, and at random places."""
    draw = random.Random(seed)
    places = {*range(min(ENDS, len(content))), *range(max(0, len(content) - ENDS), len(content))}
    for place in sorted(places | {draw.randrange(len(content)) for _ in range(more)}):
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        yield place, bytes(changed)


@pytest.fixture
def own_data():
    rng = np.random.default_rng(0)
    data_dir().mkdir(parents=True)
    path = data_dir() / "own.npz"
    images = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(60) % 3, is_train=np.arange(60) < 50)
    return path


def test_a_data_set(own_data):
    content, whole = own_data.read_bytes(), load("own")
    found = 0
    for place, changed in flips(content):
        own_data.write_bytes(changed)
        try:
            data = load("own")
        except UserError as error:
            assert "own.npz" in str(error) and "\n" not in str(error)
            found += 1
        else:
            assert data.fingerprint == whole.fingerprint, place
    assert found > 150


def test_a_partition(tmp_path):
    path = tmp_path / "split.npz"
    dirichlet_partition(np.arange(300) % 3, 4, 1.0, 0).save(path)
    content, whole = path.read_bytes(), Partition.load(path)
    found = 0
    for place, changed in flips(content):
        path.write_bytes(changed)
        try:
            split = Partition.load(path)
        except UserError as error:
            assert "split.npz" in str(error) and "\n" not in str(error)
            found += 1
        else:
            assert split.fingerprint == whole.fingerprint, place
    assert found > 150


def members(folder):
    return [(folder / name).read_bytes() for name in MEMBERS if (folder / name).exists()]


def test_an_archive_of_runs(tmp_path):
    home = tmp_path / "one"
    tiny = {"clients": 6, "participation": 0.5, "rounds": 1, "method": "majority-class"}
    for seed in (0, 1):
        run(RunConfig(**tiny, seed=seed), directory=home, progress=False)
    archive = tmp_path / "runs.tar.gz"
    export_runs(folders(home), archive)
    wanted = {f.name: members(f) for f in folders(home)}
    found = 0
    for number, (place, changed) in enumerate(flips(archive.read_bytes())):
        archive.write_bytes(changed)
        there = tmp_path / f"there-{number}"
        try:
            done = import_runs(archive, there)
        except UserError as error:
            assert "runs.tar.gz" in str(error) and "\n" not in str(error)
            found += 1
            continue
        taken = {f.name: members(f) for f in folders(there)}
        assert taken.items() <= wanted.items(), place
        assert all(is_finished(there / name) for name in taken)
        assert len(taken) + len(done.refused) == 2, place
        found += bool(done.refused)
    assert found > 500
