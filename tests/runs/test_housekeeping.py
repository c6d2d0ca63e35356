"""Runs looked after from the command line."""

import json

import pytest

from fedobp_lib import RunConfig, run
from fedobp_lib.cli import main
from fedobp_lib.paths import runs_dir
from fedobp_lib.runs.lease import leased

TINY = {"clients": 6, "participation": 0.5, "rounds": 2, "local_epochs": 1}


@pytest.fixture
def two():
    return run(RunConfig(**TINY)), run(RunConfig(**TINY, method="fedavg", seed=1))


def printed(capsys, *arguments):
    code = main(["runs", *arguments])
    return code, capsys.readouterr().out


def test_the_list_can_be_filtered_and_read_by_programs(two, capsys):
    _, out = printed(capsys, "list", "--method", "fedobp", "--json")
    (row,) = json.loads(out)
    assert row["run_id"] == two[0].run_id and row["state"] == "done"
    assert row["before"] == pytest.approx(two[0].accuracy())
    assert (
        json.loads(printed(capsys, "list", "--seed", "1", "--state", "partial", "--json")[1]) == []
    )
    assert two[1].run_id in printed(capsys, "list", "--seed", "1")[1]


def test_verify_finds_what_changed_and_fails(two, capsys):
    assert printed(capsys, "verify") == (0, "2 runs, 0 damaged\n")
    path = two[0].directory / "layers.csv"
    path.write_bytes(path.read_bytes() + b"\n")
    code, out = printed(capsys, "verify")
    assert code == 1 and f"{two[0].run_id}: layers.csv" in out
    assert printed(capsys, "verify", "--method", "fedavg")[0] == 0
    found = json.loads(printed(capsys, "verify", "--json")[1])
    assert list(found["damaged"]) == [two[0].run_id]


def test_diff_names_what_differs_and_the_first_round(two, capsys):
    one, other = (result.run_id for result in two)
    found = json.loads(printed(capsys, "diff", one, other, "--json")[1])
    assert found["settings"]["seed"] == [0, 1]
    assert found["settings"]["method"] == ["fedobp", "fedavg"]
    assert found["settings"]["settings.score"] == ["obp", None]
    assert found["first_round"] == 1
    assert found["accuracy"]["before"] == [result.accuracy() for result in two]
    _, out = printed(capsys, "diff", one, other)
    assert "they part in round 1" in out and all(len(line) <= 80 for line in out.splitlines())
    assert "the same" in printed(capsys, "diff", one, one)[1]


def test_show_as_json_has_the_provenance(two, capsys):
    made = json.loads(printed(capsys, "show", two[0].run_id[:8], "--json")[1])["provenance"]
    assert made["precision"] == "fp32" and made["backend"] == "loop"
    assert made["packed_with"] == [] and made["peak_memory_gib"] > 0.05


def test_gc_removes_what_nobody_needs_and_nothing_else(two, capsys):
    home = runs_dir()
    keep = sorted(f for f in home.rglob("*"))
    (home / "abc.bad").mkdir()
    (home / "abc.bad" / "history.csv").write_bytes(b"x" * 1000)
    (two[0].directory / "checkpoint.pt").write_bytes(b"x")
    (two[0].directory / ".history.csv.123").write_bytes(b"x")
    partial = home / "partial"
    partial.mkdir()
    (partial / "config.json").write_text("{}")
    _, out = printed(capsys, "gc", "--dry-run")
    assert "3 would be removed" in out and (home / "abc.bad").exists()
    told = json.loads(printed(capsys, "gc", "--dry-run", "--json")[1])
    assert len(told["found"]) == 3 and not told["removed"] and (home / "abc.bad").exists()
    told = json.loads(printed(capsys, "gc", "--json")[1])
    assert len(told["found"]) == 3 and told["removed"] and told["bytes"] == 1002
    assert printed(capsys, "gc")[1].startswith("0 removed")
    assert sorted(f for f in home.rglob("*") if partial not in (f, f.parent)) == keep
    with leased(partial):
        printed(capsys, "gc", "--partial")
        assert partial.exists()
    printed(capsys, "gc", "--partial")
    assert not partial.exists()


def test_export_and_import(two, capsys, tmp_path):
    file = str(tmp_path / "some.tar.gz")
    assert "1 runs written" in printed(capsys, "export", file, "--method", "fedobp")[1]
    code, out = printed(capsys, "import", file, "--runs-dir", str(tmp_path / "there"))
    assert code == 0 and "1 runs taken in" in out
    told = json.loads(printed(capsys, "export", file, "--json")[1])
    assert told == {"runs": 2, "file": file}
    code, out = printed(capsys, "import", file, "--runs-dir", str(tmp_path / "there"), "--json")
    one, other = (result.run_id for result in two)
    assert code == 0 and json.loads(out) == {"new": [other], "known": [one], "refused": {}}
    assert main(["runs", "import", str(tmp_path / "none")]) == 2
