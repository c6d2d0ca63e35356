"""The page of a preset: complete, self-contained, in order, and true to runs and files."""

import base64
import re
import shutil
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from helpers.page import Page

from fedobp_lib import figures
from fedobp_lib.cli import main
from fedobp_lib.paper.deviations import DEVIATIONS
from fedobp_lib.paper.protocols import PROTOCOLS
from fedobp_lib.paths import figures_dir, runs_dir
from fedobp_lib.report.page import formatted, write_report

ADDRESSES = ("src", "href", "srcset", "data", "poster", "action", "background")


def test_the_page_holds_every_figure_and_loads_nothing(results):
    path = write_report("smoke")
    assert path == figures_dir("smoke") / "report.html"
    text = path.read_text()
    page = Page(text)
    images = [attributes["src"] for attributes in page.find("img")]
    start = "data:image/png;base64,"
    assert all(src.startswith(start) for src in images)
    embedded = sorted(base64.b64decode(src[len(start) :], validate=True) for src in images)
    assert embedded == sorted(p.read_bytes() for p in path.parent.glob("*.png")) != []
    assert all(attributes["alt"].strip() for attributes in page.find("img"))

    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in set(ADDRESSES) & set(attributes):
            value = attributes[name]
            inside = value.startswith(start) or (value[0] == "#" and value[1:] in ids)
            assert inside or (tag == "a" and name == "href"), (tag, value[:60])
    assert not re.search(r"url\(|@import|@font-face", text)
    assert write_report("smoke").read_text() == text


def test_sections_are_in_the_papers_order_and_name_its_tables(results):
    page = Page(write_report("smoke").read_text())
    headings = [a["id"] for tag, a in page.tags if tag == "h2" and "id" in a]
    assert headings == [
        "settings", "notebook-00", "notebook-02", "notebook-03", "other", "published",
        "deviations", "provenance",
    ]  # fmt: skip
    assert "Tables 1 and 6 of the paper · notebook 02" in page.text
    assert "Figures 2, 3, 6 and 7 of the paper" in page.text
    links = [a["href"] for a in page.find("a")]
    assert [link for link in links if link[1:] in headings] == [f"#{id_}" for id_ in headings]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    # What this preset lacks, and how to get it.
    assert "Data sets and how they are split (Table 2)" in page.text
    assert re.search(r"fedobp reproduce --preset smoke --only 01\b", page.text)


def test_tables_are_those_of_the_files(results):
    page = Page(write_report("smoke").read_text())
    assert page.tables["accuracy_before_pooled_best"] == [
        ["dataset", "quantile", "mean"],  # an empty column is left out
        ["digits", "0.99998", "87.13"],
        ["<script>", "–", "100.00"],
    ]
    assert page.tables["of_my_own"] == page.tables["accuracy_before_pooled_best"]
    # Long tables show their beginning, folded, and say where the rest is.
    frame = pd.read_csv(figures_dir("smoke") / "accuracies.csv")
    head, *rows = page.tables["accuracies"]
    assert len(rows) == 20 < len(frame) and "accuracies" in page.folded
    assert [row[head.index("run_id")] for row in rows] == frame["run_id"][:20].tolist()
    assert f"first 20 of {len(frame)} rows" in page.text
    assert "accuracies.csv" in page.text and "of_my_own.csv" in page.text
    assert "accuracy_before_pooled_best" not in page.folded
    assert len(page.tables["convergence_before_digits_0.1"]) == 1 + 20


def test_settings_and_provenance_are_those_of_the_runs(results):
    page = Page(write_report("smoke").read_text())
    settings = {row[0]: row for row in page.tables["settings"]}
    column = settings["setting"].index("notebook 02")
    config = results[0].config
    for name in ("rounds", "clients", "momentum", "protocol", "test_share"):
        value = getattr(config, name)
        shown = value if isinstance(value, str) else f"{value:g}"
        assert settings[name.replace("_", " ")][column] == shown
    assert settings["method"][column] == "fedavg, majority-class"
    assert settings["runs"][column] == "2"

    head, row = page.tables["provenance"][:2]
    told = dict(zip(head, row, strict=True))
    made = results[0].summary["provenance"]
    assert told["torch"] == made["torch"] and told["device"] == made["device"]
    assert (made["commit"] or "unknown")[:12] in told["commit"]
    assert ("uncommitted" in told["commit"]) == bool(made["uncommitted_changes"])
    assert told["runs"] == "2" and told["first"] == min(
        r.summary["provenance"]["finished"] for r in results
    )
    hours = sum(r.summary["seconds_total"] for r in results) / 3600
    assert f"2 runs, {hours:.2f} hours of computing" in page.text


def test_the_settings_are_those_of_what_is_shown(results):
    def columns():
        page = Page(write_report("smoke").read_text())
        return next(row for row in page.tables["settings"] if row[0] == "setting")

    assert {"notebook 02", "notebook 03"} <= set(columns())
    for path in figures_dir("smoke").glob("convergence_*"):
        path.unlink()
    assert "notebook 02" in columns() and "notebook 03" not in columns()


def test_the_page_says_it_all_where_the_runs_are_not(results):
    before = write_report("smoke").read_text()
    shutil.rmtree(runs_dir())
    assert write_report("smoke").read_text() == before
    assert "2 runs," in Page(before).text and "fedavg, majority-class" in Page(before).text


def test_deviations_are_told_with_the_protocols_own_values(results):
    page = Page(write_report("smoke").read_text())
    text = dict(DEVIATIONS)
    for point in text:
        assert point in page.text
    assert str(PROTOCOLS["released"]["momentum"]) in text["Momentum and seeds"]
    for protocol in PROTOCOLS.values():
        assert str(protocol["test_share"]) in text["Test share of a client's data"]
        assert protocol["quantile_rule"] in text["Quantile"]


def test_the_command(results, capsys, tmp_path):
    assert main(["report", "--preset", "smoke", "--output", str(tmp_path / "b.html")]) == 0
    assert capsys.readouterr().out.strip().endswith("b.html")
    assert (tmp_path / "b.html").read_text().startswith("<!doctype html>")
    # A folder that is mistyped is not made.
    assert main(["report", "--preset", "smoke", "--output", str(tmp_path / "a" / "b.html")]) == 2
    assert "cannot write" in capsys.readouterr().err and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--preset smoke", "run `fedobp reproduce --preset smoke`"),
        ("--preset smok", "did you mean 'smoke'"),
        ("--preset quick --output /proc/none/report.html", "cannot write"),
        ("--preset quick --output ~nosuch/r.html", "no home folder for '~nosuch/r.html'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(capsys, arguments, message):
    figures.save_table(pd.DataFrame({"a": [1]}), "accuracies", "quick")
    try:
        code = main(["report", *arguments.split()])
    except SystemExit as refused:  # by the parser
        code = refused.code
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("accuracies.csv", 0),
        ("comparison_tables_1_and_6.csv", 0),
        ("comparison_tables_1_and_6.csv", 8),
        ("quickstart_scores.png", 0),
        ("quickstart_scores.png", 300),
    ],
)
def test_a_damaged_file_is_named(results, capsys, name, kept):
    path = figures_dir("smoke") / name
    path.write_bytes(path.read_bytes()[:kept])
    assert main(["report", "--preset", "smoke"]) == 2
    error = capsys.readouterr().err
    assert f"{path} cannot be read; delete it" in error and error.count("\n") == 1


def test_figures_without_runs_still_make_a_page():
    """As in a fresh clone: the figures are there, the runs are not."""
    figures.save_table(pd.DataFrame({"a": [1]}), "accuracies", "quick")
    page = Page(write_report("quick").read_text())
    assert "They are not known" in page.text and page.tables["accuracies"]


def test_numbers_keep_the_digits_that_matter():
    frame = pd.DataFrame(
        {
            "quantile": [0.99998, 0.5], "percent": [12.345, 7.0], "score": [1.23456e-9, 0.25],
            "count": [878538, 18], "seeds": [2.0, np.nan], "agrees": [True, False],
        }
    )  # fmt: skip
    table = formatted(frame)
    assert table.rows == [
        ["0.99998", "12.35", "1.23e-09", "878,538", "2", "yes"],
        ["0.5", "7.00", "0.25", "18", "–", "no"],
    ]
    assert [number for _, number in table.columns] == [True] * 5 + [False]
