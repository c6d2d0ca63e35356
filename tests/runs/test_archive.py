"""Finished runs carried to another machine, and what must not come in."""

import io
import shutil
import tarfile

import pytest

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.runs.archive import MEMBERS, export_runs, import_runs
from fedobp_lib.runs.store import folders, is_finished

TINY = {"clients": 18, "participation": 0.17, "rounds": 2, "local_epochs": 1, "method": "fedavg"}


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Seeds 0 and 1 on one machine, 1 and 2 on the other."""
    folder = tmp_path_factory.mktemp("computed")
    for home, seeds in (("one", (0, 1)), ("two", (1, 2))):
        for seed in seeds:
            run(RunConfig(**TINY, seed=seed), directory=folder / home)
    return folder


@pytest.fixture
def machines(computed, tmp_path):
    """Two folders of runs."""
    homes = tmp_path / "one", tmp_path / "two"
    for home in homes:
        shutil.copytree(computed / home.name, home)
    return homes


def contents(home):
    members = [f / name for f in folders(home) for name in MEMBERS]
    return {(m.parent.name, m.name): m.read_bytes() for m in members if m.exists()}


def test_runs_of_two_machines_merge_byte_by_byte(machines, tmp_path):
    one, two = machines
    before, there = contents(one), contents(two)
    (one / "unfinished").mkdir()
    (one / "unfinished" / "config.json").write_text("{}")
    assert export_runs(folders(one), tmp_path / "runs.tar.gz") == 2
    done = import_runs(tmp_path / "runs.tar.gz", two)
    assert (len(done.new), len(done.known), done.refused) == (1, 1, [])
    # Of a run that both have, the one that was here stays.
    assert contents(two) == before | there
    assert not [f for f in two.iterdir() if f.name[0] == "."]


def test_nothing_of_the_machine_is_in_the_archive(machines, tmp_path):
    export_runs(folders(machines[0]), tmp_path / "runs.tar.gz")
    with tarfile.open(tmp_path / "runs.tar.gz") as archive:
        for member in archive:
            assert member.uname == member.gname == "" and member.uid == 0
            assert member.name.count("/") == 1


def rewritten(source, target, change):
    """The archive with its members changed by `change(name, content)`."""
    with tarfile.open(source) as old, tarfile.open(target, "w:gz") as new:
        for member in old:
            name, content = change(member.name, old.extractfile(member).read())
            if name is not None:
                made = tarfile.TarInfo(name)
                made.size = len(content)
                new.addfile(made, io.BytesIO(content))


def test_a_damaged_run_is_refused_and_the_others_come_in(machines, tmp_path):
    one, other = machines[0], tmp_path / "three"
    export_runs(folders(one), tmp_path / "runs.tar.gz")
    bad = folders(one)[0].name

    def flip(name, content):
        if name == f"{bad}/history.csv":
            content = content.replace(b"1,before", b"1,BEFORE", 1)
        return name, content

    rewritten(tmp_path / "runs.tar.gz", tmp_path / "bad.tar.gz", flip)
    done = import_runs(tmp_path / "bad.tar.gz", other)
    assert done.refused == [(bad, "history.csv is not as it was written")]
    assert len(done.new) == 1 and not (other / bad).exists()


def test_a_run_without_its_end_is_refused(machines, tmp_path):
    export_runs(folders(machines[0]), tmp_path / "runs.tar.gz")

    def lose(name, content):
        return (None if name.endswith("summary.json") else name), content

    rewritten(tmp_path / "runs.tar.gz", tmp_path / "bad.tar.gz", lose)
    done = import_runs(tmp_path / "bad.tar.gz", tmp_path / "three")
    assert not done.new and len(done.refused) == 2


@pytest.mark.parametrize(
    "name", ["../outside/summary.json", "/abs/summary.json", "abc/../../x", "abc/evil.py", "abc"]
)
def test_other_names_are_refused(machines, tmp_path, name):
    export_runs(folders(machines[0]), tmp_path / "runs.tar.gz")
    rewritten(
        tmp_path / "runs.tar.gz", tmp_path / "bad.tar.gz", lambda old, content: (name, content)
    )
    with pytest.raises(UserError, match="does not belong there"):
        import_runs(tmp_path / "bad.tar.gz", tmp_path / "three")
    assert not (tmp_path / "three").exists() and not (tmp_path / "outside").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_archive_is_told(tmp_path, content):
    if content is not None:
        (tmp_path / "runs.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"no archive of runs|there is no file"):
        import_runs(tmp_path / "runs.tar.gz", tmp_path / "three")


def test_an_archive_that_was_cut_brings_no_half_run(machines, tmp_path):
    export_runs(folders(machines[0]), tmp_path / "runs.tar.gz")
    whole = (tmp_path / "runs.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no archive of runs"):
        import_runs(tmp_path / "cut.tar.gz", tmp_path / "three")
    assert not [f for f in (tmp_path / "three").glob("*") if is_finished(f)]


def test_nothing_to_export_is_told(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        export_runs([], tmp_path / "runs.tar.gz")
    assert not (tmp_path / "runs.tar.gz").exists()
