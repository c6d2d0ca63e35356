"""Grids of runs from values and from TOML files."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedobp_lib import UserError
from fedobp_lib.cli import main
from fedobp_lib.methods import METHODS
from fedobp_lib.runs.grids import combinations, read_grid

AXES = {
    "method": st.sampled_from(["fedobp", "fedavg", "fedper"]),
    "alpha": st.sampled_from([0.1, 0.5, 1.0]),
    "seed": st.integers(0, 5),
    "lr": st.sampled_from([0.01, 0.1]),
}


@given(st.fixed_dictionaries({n: st.lists(s, min_size=1, max_size=4) for n, s in AXES.items()}))
def test_every_combination_once(values):
    runs = [(r.method, r.alpha, r.seed, r.lr) for r in combinations(values)]
    assert len(runs) == len(set(runs))
    assert set(runs) == set(product(*(values[name] for name in AXES)))


def test_a_setting_is_for_the_methods_that_have_it():
    runs = combinations(
        {"method": ["fedobp", "fedavg"], "seed": [0, 1]}, {"quantile": [0.9, 0.99], "ema": 0.5}
    )
    found = [(r.method, r.seed, dict(r.settings)) for r in runs]
    assert found == [
        ("fedobp", 0, {"quantile": 0.9, "ema": 0.5}),
        ("fedobp", 0, {"quantile": 0.99, "ema": 0.5}),
        ("fedobp", 1, {"quantile": 0.9, "ema": 0.5}),
        ("fedobp", 1, {"quantile": 0.99, "ema": 0.5}),
        ("fedavg", 0, {}),
        ("fedavg", 1, {}),
    ]
    assert {r.method for r in combinations({"seed": 0})} == set(METHODS)


def test_a_file_says_the_same_as_values(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(
        'method = ["fedobp", "fedavg"]\ndataset = "mnist"\nseed = [0, 1]\n'
        "[settings]\nquantile = [0.9, 0.99]\n"
    )
    values = {"method": ["fedobp", "fedavg"], "dataset": "mnist", "seed": [0, 1]}
    assert read_grid(path) == combinations(values, {"quantile": [0.9, 0.99]})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seeds = [0]", "unknown field of a run 'seeds'; did you mean 'seed'"),
        ('method = "fedopb"', "did you mean 'fedobp'"),
        ('method = "fedavg"\n[settings]\nquantile = 0.9', "unknown setting"),
        ("seed = [0,", "is not TOML"),
        ("settings = 3", "must be a table"),
        ("", "says no runs"),
        ("[settings]\nquantile = 0.9", "says no runs"),
        ("seed = []", "seed has no values"),
        ('method = "fedobp"\n[settings]\nquantile = []', "quantile has no values"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, text, told, capsys):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        read_grid(path)
    assert main(["sweep", "--file", str(path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--file", "none.toml"],
        ["--table", "99"],
        ["--table", "1", "--method", "fedavg"],
        ["--method", "fedobp", "--set", "quantile"],
        ["--method", "fedobp", "--alpha", "inf"],
        ["--workers", "two"],
        ["--file", "none.toml", "--table", "1"],
        ["--method", "fedobp", "--dry-run", "--engine", "slurm"],
        ["--method", "fedobp", "--dry-run", "--shard", "3/2"],
    ],
)
def test_bad_commands_are_told_in_one_line(arguments, capsys):
    try:
        code = main(["sweep", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_dry_run_computes_nothing(capsys):
    arguments = ["sweep", "--method", "majority-class", "--seed", "0", "1", "--rounds", "2"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "2 runs: 0 finished, 2 missing" in capsys.readouterr().out


def test_a_file_beside_tables_is_refused(tmp_path, capsys):
    path = tmp_path / "grid.toml"
    path.write_text('method = "fedavg"\nrounds = 1\n')
    assert main(["sweep", "--file", str(path), "--table", "1"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_the_dry_run_of_a_shard_counts_its_runs(capsys):
    arguments = ["sweep", "--method", "majority-class", "--seed", *"01234", "--rounds", "2"]
    counted = []
    for number in ("1/2", "2/2"):
        assert main([*arguments, "--dry-run", "--shard", number]) == 0
        counted.append(int(capsys.readouterr().out.split(" runs:")[0]))
    assert sorted(counted) == [2, 3]
