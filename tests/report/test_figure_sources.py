"""What is behind the files of a folder."""

import pytest
import torch
from helpers.page import Page

from fedobp_lib import grid, run_all
from fedobp_lib.paths import figures_dir
from fedobp_lib.report import figure_sources
from fedobp_lib.report.page import write_report
from fedobp_lib.runs.files import hashed


def test_what_is_behind_a_notebook_is_what_it_was_last_told(results):
    """Runs that no preset has, and more of them than a folded table shows."""
    seeds = range(21)
    others = run_all(
        grid("smoke", methods=["majority-class"], seeds=seeds, rounds=1), progress=False
    )
    figure_sources.record(figures_dir("smoke"), "02", [run.run_id for run in others])
    page = Page(write_report("smoke").read_text())
    settings = {row[0]: row for row in page.tables["settings"]}
    assert settings["setting"][1:] == ["notebook 02", "notebook 03"]
    assert settings["runs"][1:] == ["21", "2"] and settings["seed"][1:] == ["21 of them", "0"]
    assert settings["rounds"][1] == "1" != settings["rounds"][2]
    assert "23 runs," in page.text
    # Told anew, what nothing is drawn from any more is forgotten.
    figure_sources.record(figures_dir("smoke"), "02", [run.run_id for run in results])
    known = figure_sources.read(figures_dir("smoke"))
    assert set(known.runs) == {run.run_id for run in results}
    assert set(known.drawn) == {"02", "03"} and known.drawn["02"]["torch"] == torch.__version__


def test_a_changed_bit_of_the_record_is_told_or_of_no_consequence(results, capsys):
    path = figures_dir("smoke") / figure_sources.FILE
    content, whole = path.read_bytes(), figure_sources.read(path.parent)
    assert whole.runs and capsys.readouterr().err == ""
    for place in range(0, len(content), 3):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 7
        path.write_bytes(changed)
        found, told = figure_sources.read(path.parent), capsys.readouterr().err
        damaged = told.startswith("warning: ") and "sources.json is damaged" in told
        assert found == (figure_sources.Sources() if damaged else whole), place


@pytest.mark.parametrize("ending", ["csv", "png", "pdf"])
def test_a_changed_bit_of_a_figure_or_table_is_told(results, capsys, ending):
    folder = figures_dir("smoke")
    names = ("csv", "png", "pdf")
    files = {f"convergence_before_digits_0.1.{n}": "" for n in names}
    files = {name: hashed(folder / name) for name in files}
    figure_sources.record(folder, "03", [], files=files)
    write_report("smoke")
    assert capsys.readouterr().err == ""
    path = folder / f"convergence_before_digits_0.1.{ending}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    write_report("smoke")
    told = f"{path} is not as `fedobp reproduce` wrote it"
    assert capsys.readouterr().err == f"warning: {told}\n"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"notebooks": {}}'])
def test_a_damaged_record_is_none(results, text):
    (figures_dir("smoke") / figure_sources.FILE).write_text(text)
    assert figure_sources.read(figures_dir("smoke")) == figure_sources.Sources()
    assert "They are not known" in Page(write_report("smoke").read_text()).text
