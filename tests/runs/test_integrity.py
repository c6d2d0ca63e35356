"""Damage of every kind in a run's folder: told, kept aside, computed again."""

import json

import pytest

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.runs.integrity import FILES, SEAL
from fedobp_lib.runs.store import find_run, is_finished, list_runs
from fedobp_lib.runs.sweeps import finished, missing

TINY = {"clients": 18, "participation": 0.17, "rounds": 2, "local_epochs": 1}


def numbers(result) -> bytes:
    return b"".join((result.directory / n).read_bytes() for n in FILES)


def flip(path):
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def empty(path):
    path.write_bytes(b"")


def lose(path):
    path.unlink()


@pytest.mark.parametrize("name", [*FILES, "summary.json"])
@pytest.mark.parametrize("damage", [flip, cut, empty, lose])
def test_a_damaged_run_is_told_kept_aside_and_computed_again(name, damage, capsys):
    if name == "summary.json" and damage is lose:
        pytest.skip("without a summary it is unfinished")
    config = RunConfig(**TINY)
    whole = run(config)
    before, folder = numbers(whole), whole.directory
    damage(folder / name)
    broken = {p.name: p.read_bytes() for p in folder.iterdir() if p.name[0] != "."}

    assert not is_finished(folder)
    assert missing([config]) == [config] and finished([config]) == []
    assert name in capsys.readouterr().err
    if name != "config.json" or damage is not lose:
        assert "damaged" in list_runs()["state"].tolist()
        with pytest.raises(UserError, match="damaged"):
            find_run(folder.name)

    again = run(config)
    assert numbers(again) == before
    assert f"{name} " in (told := capsys.readouterr().err) and f"{folder.name}.bad" in told
    bad = folder.with_name(f"{folder.name}.bad")
    assert {p.name: p.read_bytes() for p in bad.iterdir()} == broken
    assert list_runs()["run_id"].tolist() == [folder.name]  # what is set aside is no run


def test_a_changed_number_in_the_summary_is_seen():
    folder = run(RunConfig(**TINY)).directory
    summary = json.loads((folder / "summary.json").read_text())
    assert SEAL in summary
    summary["final"]["before"]["pooled"] = 99.9
    (folder / "summary.json").write_text(json.dumps(summary))
    assert not is_finished(folder)


def test_damage_twice_is_kept_twice():
    config = RunConfig(**TINY)
    for _ in range(2):
        flip(run(config).directory / "history.csv")
    folder = run(config).directory
    assert {p.name for p in folder.parent.iterdir()} == {
        folder.name, f"{folder.name}.bad", f"{folder.name}.bad2"
    }  # fmt: skip


def test_a_run_from_before_there_were_checksums_is_read():
    config = RunConfig(**TINY)
    folder = run(config).directory
    summary = json.loads((folder / "summary.json").read_text())
    del summary[SEAL], summary["files"], summary["diverged"]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert is_finished(folder) and finished([config])[0].diverged is None
    empty(folder / "history.csv")
    assert not is_finished(folder)
