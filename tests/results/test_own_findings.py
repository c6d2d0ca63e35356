"""What is said of the kit's own runs: its numbers are the runs', and both files have it."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import pytest
from helpers import ROOT
from helpers.fake_runs import fake_run

from fedobp_lib import UserError
from fedobp_lib.methods import METHODS
from fedobp_lib.paper.logged import logged_accuracy
from fedobp_lib.results import own_findings
from fedobp_lib.results.own_findings import missing, reasons, sentences
from fedobp_lib.results.own_readme import BEGIN, END, readme_part, with_readme_part
from fedobp_lib.results.own_runs import chosen, coverage, own_runs
from fedobp_lib.runs.round100 import parts

KEPT = ROOT / "figures" / "round100"
MADE = {"device": "a CPU", "torch": "2", "commit": "0123456789"}
needs_runs = pytest.mark.skipif(not (KEPT / "runs.csv").exists(), reason="no run is kept yet")


def one(folder, part, number, accuracy, tuned, **changes):
    config = replace(parts()[part][number], **changes)
    made = fake_run(
        folder, accuracy, tuned=tuned, summary={"provenance": MADE}, **vars(config)
    )  # fmt: skip
    (made.directory / "clients.csv").write_text("test_samples\n17500\n", encoding="utf-8")
    return made


@pytest.fixture
def runs(tmp_path):
    """FedAvg and FedOBP on MNIST, and the three kinds of FedOBP on CIFAR-100."""
    cifar = [k for k, run in enumerate(parts()["cifar100"]) if run.method == "fedobp"]
    found = [
        one(tmp_path, "mnist-fmnist", 0, 90.0, 98.0),
        one(tmp_path, "mnist-fmnist", 1, 97.5, 97.75),
    ]
    return found + [
        one(tmp_path, "cifar100", k, [40.0, 41.0, 42.0, value], 44.0)
        for k, value in zip(cifar, (46.0, 45.0, 49.87), strict=True)
    ]


def test_leads_are_the_differences_of_the_two(runs):
    (text,) = [text for text in sentences(runs) if text.startswith("FedOBP less FedAvg")]
    assert text.endswith(": mnist α0.1 +7.50 / -0.25 / -0.50.")


def test_leads_are_those_of_each_runs_last_round(runs, tmp_path):
    """Round 400 on CIFAR-100, whose evaluations before are others, and 100 on MNIST."""
    place = next(k for k, run in enumerate(parts()["cifar100"]) if run.method == "fedavg")
    fedavg = one(tmp_path, "cifar100", place, [23.0, 24.0, 25.5, 26.0], 45.0)
    (text,) = [text for text in sentences([*runs, fedavg]) if text.startswith("FedOBP less")]
    # 46 less 26, 44 less 45, 46 less 45.
    assert "cifar100 α0.1 +20.00 / -1.00 / +1.00; " in text


def test_a_lead_is_told_also_where_only_one_stage_was_tested(runs, tmp_path):
    fedavg = one(tmp_path, "mnist-fmnist", 0, 90.0, None)
    (text,) = [text for text in sentences([fedavg, runs[1]]) if text.startswith("FedOBP less")]
    assert text.endswith(": mnist α0.1 +7.50 / - / -.")


def test_how_far_from_the_logs_by_hand(runs):
    """FedAvg's and FedOBP's four evaluations on MNIST at round 100, as logged."""
    logged = logged_accuracy().query(
        "dataset == 'mnist' and alpha == 0.1 and momentum == 0.7 and round == 100"
    )
    logged = logged.sort_values("run").groupby(["method", "stage"])["accuracy"].last()
    ours = {"fedavg": (90.0, 98.0), "fedobp": (97.5, 97.75)}
    away = sorted(
        abs(value - logged[method, stage])
        for method, values in ours.items()
        for stage, value in zip(("before", "after"), values, strict=True)
    )
    (text,) = [text for text in sentences(runs[:2]) if text.startswith("Of 4 evaluations")]
    assert f"median distance: mnist {(away[1] + away[2]) / 2:.2f};" in text
    far = {
        method
        for method, values in ours.items()
        for stage, value in zip(("before", "after"), values, strict=True)
        if abs(value - logged[method, stage]) > 1
    }
    assert far and text.endswith(f"away: {', '.join(METHODS[m].title for m in sorted(far))}.")


def test_what_is_far_from_its_log_has_its_distance_and_reason(tmp_path):
    """Also where the wide rule calls it level; CIFAR-10, which is no exact copy, is left out."""
    logged = logged_accuracy().query("alpha == 0.1 and momentum == 0.7 and round == 100")
    logged = logged.sort_values("run").groupby(["dataset", "method", "stage"])["accuracy"].last()
    number = {run.method: k for k, run in enumerate(parts()["mnist-fmnist"][:16])}
    values = {"apfl": (-2.0, 0.1), "fedper": (-30.0, -0.1), "fedavg": (0.9, -0.9)}
    made = [
        one(tmp_path, "mnist-fmnist", number[method], *(
            logged["mnist", method, stage] + away
            for stage, away in zip(("before", "after"), both, strict=True)
        ))
        for method, both in values.items()
    ]  # fmt: skip
    made.append(one(tmp_path, "cifar10", 0, 5.0, 5.0))
    (text,) = reasons(made)
    assert text == (
        "Over a point from their log: APFL before, mnist α0.1 (-2.00; reason: there outputs are "
        "mixed, and each batch moves the global model twice); FedPer before, mnist α0.1 "
        "(-30.00; differs; reason: none known)."
    )
    assert reasons(made[2:]) == []


def test_the_printed_value_is_reached_within_a_point(runs):
    (text,) = [text for text in sentences(runs) if "Table 1 prints 50.37" in text]
    assert "1 of them within a point" in text
    assert "49.87 (44.00) with Eq. 19's score and Table 5's q. Table 1" in text
    logged = logged_accuracy().query(
        "dataset == 'cifar100' and alpha == 0.1 and method == 'fedobp' and momentum == 0.7"
        " and round == 400"
    )
    theirs = logged.sort_values("run").groupby("stage")["accuracy"].last()
    both = f"{theirs['before']:.2f} ({theirs['after']:.2f})"
    assert f"46.00 (44.00) as in the authors' main run, logged {both}; 45.00" in text
    (text,) = [text for text in sentences(runs[:-1]) if "Table 1 prints" in text]
    assert "none of them within a point" in text


def test_how_far_bf16_is_from_fp32(runs, tmp_path, monkeypatch):
    """FedAvg's 90.00 and FedOBP's 97.50 in bf16, and both in fp32."""
    exact = [
        one(tmp_path, "mnist-fmnist", 0, 90.25, None, precision="fp32"),
        one(tmp_path, "mnist-fmnist", 1, 97.0, None, precision="fp32"),
        one(tmp_path, "mnist-fmnist", 1, 50.0, None, precision="fp32", seed=1),
    ]
    monkeypatch.setattr(own_findings, "runs_on_mnist", lambda: exact)
    (text,) = [text for text in sentences(runs) if text.startswith("bf16 beside fp32")]
    assert "2 evaluations (FedAvg, FedOBP on mnist, before local training, round 100)" in text
    assert text.endswith("at most 0.50 points apart.")
    monkeypatch.setattr(own_findings, "runs_on_mnist", lambda: exact[2:])
    assert not [text for text in sentences(runs) if "fp32" in text]


def test_of_few_methods_none_is_called_the_best(runs, tmp_path):
    assert not [text for text in sentences(runs) if text.startswith("Best after")]
    more = [one(tmp_path, "mnist-fmnist", k, 91.0 + k, 99.0 - k) for k in range(2, 6)]
    (text,) = [text for text in sentences([*runs, *more]) if text.startswith("Best after")]
    last = METHODS[parts()["mnist-fmnist"][5].method].title
    assert f"6 methods: before FedOBP 97.50 (+1.50 on {last})" in text  # 91 + 5 = 96.00
    assert "after FedAvg 98.00 (+0.25 on FedOBP)." in text


def test_what_is_planned_and_not_there_is_named(runs):
    table = coverage(runs).set_index("part")
    assert table["runs"].to_dict() == dict.fromkeys(parts(), 0) | {"mnist-fmnist": 2, "cifar100": 3}
    assert table["planned"].to_dict() == {name: len(part) for name, part in parts().items()}
    (text,) = missing(runs)
    assert "2 of 5 on CIFAR-100, 30 of 32 on MNIST and Fashion-MNIST, 16 of 16 on" in text
    assert text in readme_part(runs)


def test_a_copy_that_is_not_exact_bears_its_mark(runs, tmp_path):
    part = readme_part([*runs, one(tmp_path, "cifar10", 0, 60.0, 87.0)])
    header = next(line for line in part.splitlines() if line.startswith("| method"))
    assert "cifar10*, α = 0.1" in header and "mnist, α" in header
    assert "re-compressed copy" in part and "re-compressed" not in readme_part(runs)


def test_parameters_choose_among_the_runs(runs):
    assert chosen(runs) == runs
    assert chosen(runs, datasets="mnist", methods='["fedobp"]') == runs[1:2]
    assert chosen(runs, seeds=[7]) == [] == sentences([])
    with pytest.raises(UserError, match="each of seeds"):
        chosen(runs, seeds=["x"])


def test_only_the_part_between_the_marks_is_written_anew(runs):
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    new = with_readme_part(text, runs)
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert with_readme_part(new, runs) == new
    with pytest.raises(UserError, match="lacks the lines"):
        with_readme_part("nothing", runs)


@needs_runs
def test_the_readme_says_what_the_kept_runs_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_readme_part(text, own_runs()) == text


@needs_runs
def test_every_cell_of_the_readme_is_a_number_of_the_kept_history():
    """By a plain reading of the CSV file."""
    part = (ROOT / "README.md").read_text(encoding="utf-8").split(BEGIN)[1]
    ours = set(re.findall(r"\| (\d+\.\d\d) \(", part.split(END)[0]))
    with (KEPT / "runs.csv").open(encoding="utf-8") as file:
        wanted = {row["run_id"] for row in csv.DictReader(file) if row["momentum"] == "0.7"}
    found = {}
    with (KEPT / "history.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            place = (row["round"], row["scope"], row["average"])
            if place == ("100", "all", "pooled") and row["run_id"] in wanted:
                what = tuple(row[k] for k in ("dataset", "alpha", "method", "settings", "stage"))
                found.setdefault(what, []).append(float(row["accuracy"]))
    kept = {f"{sum(values) / len(values):.2f}" for values in found.values()}  # over seeds
    assert ours and ours <= kept
