"""FINDINGS.md: its text is computed, and its numbers come from the files."""

import csv
import re

from helpers import ROOT

from fedobp_lib import paths
from fedobp_lib.cli import main
from fedobp_lib.paper import logged
from fedobp_lib.results import findings
from fedobp_lib.results.findings import FINDINGS, findings_text
from fedobp_lib.results.neighbour_findings import NEIGHBOUR_FINDINGS, told, verdicts
from fedobp_lib.results.own_findings import OWN_FINDINGS

AUTHORS = ROOT / "fedobp_lib" / "paper" / "authors"


def test_the_file_is_the_computed_text(capsys):
    assert main(["findings"]) == 0
    assert capsys.readouterr().out == (ROOT / "FINDINGS.md").read_text() == findings_text()


def test_it_is_short_and_names_a_notebook_each_time():
    text = findings_text()
    of_logs, of_runs = text.split("\n# What runs of ours say\n")
    assert len(of_logs.split()) < 1000 and len(of_runs.split()) < 1300
    assert max(map(len, text.splitlines())) < 100
    numbers = re.findall(r"\*Shown by notebook (\d\d)\b", text.replace("\n", " "))
    assert len(numbers) == len(FINDINGS) + len(NEIGHBOUR_FINDINGS) + len(OWN_FINDINGS)
    for number in numbers:
        assert list((ROOT / "notebooks").glob(f"{number}_*.ipynb"))


def test_fine_tuned_fedavg_against_a_plain_reading_of_the_log():
    best, last = {}, {}
    with (AUTHORS / "evaluations.csv").open() as file:
        for row in csv.DictReader(file):
            key, run = (row["dataset"], row["alpha"]), int(row["run"])
            if row["experiment"] != "accuracy":
                continue
            if row["method"] == "fedobp":
                kept = best.setdefault(key, {})
                kept[run] = max(kept.get(run, 0), float(row["before"]))
            if row["method"] == "fedavg" and row["round"] == "400":
                last.setdefault(key, {})[run] = float(row["after"])
    pairs = [(best[key][max(best[key])], last[key][max(last[key])]) for key in best]
    wins = sum(ours > tuned for ours, tuned in pairs)
    mean = sum(ours - tuned for ours, tuned in pairs) / len(pairs)
    text = findings._fine_tuned().text
    assert f"{mean:+.2f} points on average over {len(pairs)} " in text
    assert f"ahead in {wins} and behind in {len(pairs) - wins}" in text


def test_the_numbers_follow_the_data(monkeypatch):
    real = logged.logged_accuracy()
    worse = real.assign(
        accuracy=real["accuracy"].where(real["method"] != "fedobp", real["accuracy"] - 1)
    )
    monkeypatch.setattr(logged, "logged_accuracy", lambda: worse)
    assert "ahead in 0 and behind in 16" in findings._fine_tuned().text


def test_every_verdict_that_a_notebook_keeps_is_told_with_what_was_measured():
    text = findings_text().replace("\n", " ")
    for name in ("claims_partial", "claims_fedspa", "claims_rules", "claims_rules_on_mnist"):
        with (ROOT / "figures" / "quick" / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert rows
        for row in rows:
            assert row["id"].replace("-", " ") in text and row["measured"] in text


def test_a_verdict_that_turns_moves_its_claim():
    claims = verdicts("claims_fedspa")
    first = claims["id"].iloc[0].replace("-", " ")
    before = told(claims.assign(verdict="holds"))
    after = told(claims.assign(verdict=["does not hold"] + ["holds"] * (len(claims) - 1)))
    assert before.startswith(f"*holds*: {first}")
    assert f"*does not hold*: {first}" in after and after != before


def test_without_figures_the_logs_are_told_all_the_same(monkeypatch, tmp_path):
    whole = findings_text()
    (tmp_path / "fedobp_lib").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "kept_dir", lambda name: tmp_path / name)
    text = findings_text()
    assert text.split("# What runs of ours say")[0] == whole.split("# What runs of ours say")[0]
    assert text.count("verdicts are not here") == len(NEIGHBOUR_FINDINGS)
    assert text.count("kept runs are not here") == len(OWN_FINDINGS)
