"""Which logged values give a printed cell: recomputed cell by cell from the files."""

import csv
from collections import defaultdict
from decimal import ROUND_HALF_UP, Decimal
from importlib.resources import files

import numpy as np
import pytest

from fedobp_lib.paper.published import METHOD_NAMES
from fedobp_lib.results import printed_cells
from fedobp_lib.results.printed_cells import MIX, OPEN, SHEETS, by_chance, explained_cells

PAPER = files("fedobp_lib.paper")


def rows(name):
    with (PAPER / name).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cells():
    return explained_cells()


def digits(value):
    return Decimal(value).quantize(Decimal("0.01"), ROUND_HALF_UP)


def slowly():
    """Cells that three sheets and the latest run explain, in exact decimals."""
    sheets, runs = defaultdict(list), defaultdict(dict)
    for row in rows("authors/momentum0_sheets.csv"):
        sheets[row["dataset"], row["alpha"], row["method"]].append(Decimal(row["accuracy"]))
    for row in rows("authors/evaluations.csv"):
        if row["experiment"] == "accuracy":
            found = runs[row["dataset"], row["alpha"], row["method"]]
            found.setdefault(int(row["run"]), []).append(Decimal(row["before"]))
    explained = set()
    for row in rows("accuracy_tables_1_and_6.csv"):
        key = (row["dataset"], row["alpha"], METHOD_NAMES[row["method"]])
        if len(sheets[key]) == 3 and runs[key]:
            values = [*sheets[key], max(runs[key][max(runs[key])])]
            mean = sum(values) / 4
            std = (sum((v - mean) ** 2 for v in values) / 4).sqrt()
            printed = Decimal(row["accuracy_mean_percent"]), Decimal(row["accuracy_std_percent"])
            half = Decimal("0.005")
            if abs(mean - printed[0]) <= half and abs(std - printed[1]) <= half:
                explained.add(key)
    return explained


def test_the_mix_against_exact_decimals(cells):
    mix = cells[cells["explanation"] == MIX]
    found = {(r.dataset, f"{r.alpha:g}", r.method) for r in mix.itertuples()}
    assert found == slowly()
    # Eight methods with both sources, and only a seventh of the cells is without a word.
    assert len(found) + (cells["explanation"] == OPEN).sum() >= 97
    assert len(cells) == 208


def test_an_example(cells):
    row = cells.query("dataset == 'cifar10' and alpha == 0.1 and method == 'fedavg'").iloc[0]
    assert row["used"] == "58.04 57.94 58.04 58.59" and row["explanation"] == MIX
    assert digits(row["mean"]) == Decimal("58.15") and digits(row["std"]) == Decimal("0.26")


def test_fedobps_own_cells_come_from_none(cells):
    assert cells.loc[cells["method"] == "fedobp", "explanation"].isna().all()


def test_flutes_zero_deviations_are_of_momentum_0_alone(cells):
    flute = cells[(cells["method"] == "flute") & (cells["explanation"] == SHEETS)]
    assert len(flute) >= 11 and (flute["printed_std"] <= 0.04).all()


def test_open_cells_are_of_the_data_set_that_is_kept_out(cells):
    still_open = cells[cells["explanation"] == OPEN]
    assert set(still_open["dataset"]) == {"fmnist"}
    for row in still_open.itertuples():
        assert float(row.used.split()[-1]) >= float(row.logged)


def test_chance_explains_next_to_nothing_and_another_table_nothing(cells, monkeypatch):
    counts = by_chance(permutations=50)
    assert counts.mean() < 5 and counts.max() < 10
    shifted = printed_cells.published_accuracy()
    shifted["accuracy_mean_percent"] += 0.03
    monkeypatch.setattr(printed_cells, "published_accuracy", lambda: shifted)
    assert (explained_cells()["explanation"] == MIX).sum() < 20


def test_chance_is_the_same_each_time():
    assert np.array_equal(by_chance(5), by_chance(5))
