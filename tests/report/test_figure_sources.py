"""What is behind the files of a folder."""

import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from fedobp_lib import figures, grid, run_all
from fedobp_lib.paths import figures_dir, runs_dir
from fedobp_lib.report import figure_sources
from fedobp_lib.report.page import write_report
from fedobp_lib.results.compare import compare_accuracy
from fedobp_lib.results.tables import accuracies

CPU = torch.device("cpu")


METHODS = ["majority-class", "fedavg"]


VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser would load, and what a reader would find."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.tables = [], [], [], {}
        self.folded, self.last = set(), None
        self.feed(text)
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        self.last = attributes.get("id", self.last)
        if tag == "table":
            self.rows = self.tables.setdefault(self.last, [])
            if "details" in self.open:
                self.folded.add(self.last)
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += text

    def find(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def draw(name, frame, seed=0):
    figure, axis = plt.subplots(figsize=(2, 1))
    axis.plot(np.random.default_rng(seed).random(5))
    plt.close(figure)
    figures.save(figure, frame, name, "smoke")


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A folder with two finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDOBP_RUNS", str(folder))
        run_all(grid("smoke", methods=METHODS), progress=False)
    return folder


@pytest.fixture
def results(computed):
    """The two runs, and files as three notebooks and a stranger would write them."""
    shutil.copytree(computed, runs_dir())
    results = run_all(grid("smoke", methods=METHODS), progress=False)
    short = pd.DataFrame({"dataset": ["digits", "<script>"], "quantile": [0.99998, np.nan],
                          "mean": [87.126, 100.0], "published_mean": [np.nan, np.nan]})  # fmt: skip
    long = pd.DataFrame({"round": np.arange(61), "accuracy": np.linspace(0, 100, 61)})
    draw("convergence_before_digits_0.1", long)
    draw("quickstart_scores", short, seed=1)
    figures.save_table(short, "accuracy_before_pooled_best", "smoke")
    figures.save_table(pd.concat([accuracies(results)] * 10), "accuracies", "smoke")
    figures.save_table(compare_accuracy(results), "comparison_tables_1_and_6", "smoke")
    figures.save_table(short, "of_my_own", "smoke")
    for notebook in ("02", "03"):
        figure_sources.record(figures_dir("smoke"), notebook, [r.run_id for r in results], CPU)
    return results


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


@pytest.mark.parametrize("text", ["", "{", "[]", '{"notebooks": {}}'])
def test_a_damaged_record_is_none(results, text):
    (figures_dir("smoke") / figure_sources.FILE).write_text(text)
    assert figure_sources.read(figures_dir("smoke")) == figure_sources.Sources()
    assert "They are not known" in Page(write_report("smoke").read_text()).text
