"""Tables and figures from finished runs."""

import errno
import os

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers.drawn import overlaps
from helpers.fake_runs import fake_run
from matplotlib import pyplot as plt

from fedobp_lib import UserError, figures, grid, run_all
from fedobp_lib.federation import make_partition
from fedobp_lib.figures import style
from fedobp_lib.methods import METHODS
from fedobp_lib.paths import figures_dir
from fedobp_lib.results.convergence import convergence_frame
from fedobp_lib.results.tables import accuracy_table


@pytest.fixture
def results(tmp_path):
    return run_all(grid("smoke", methods=["fedavg", "fedobp"], seeds=[0, 1], rounds=3))


def test_figures_are_saved_alike_twice(results):
    frame = convergence_frame(results)
    written = []
    for _ in range(2):
        figures.save(figures.plot_convergence(frame), frame, "curves", "smoke")
        folder = figures_dir("smoke")
        written.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert set(written[0]) == {"curves.pdf", "curves.png", "curves.csv"}
    assert written[0] == written[1]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "curves.csv"), frame)


def test_a_users_matplotlibrc_changes_no_figure(results):
    frame = convergence_frame(results)

    def drawn():
        figures.save(figures.plot_convergence(frame), frame, "curves", "smoke")
        return (figures_dir("smoke") / "curves.png").read_bytes()

    wanted = drawn()
    theirs = {
        "text.usetex": True, "font.family": "serif", "font.size": 20, "lines.linestyle": ":",
        "axes.facecolor": "black", "savefig.facecolor": "red", "savefig.transparent": True,
    }  # fmt: skip
    with matplotlib.rc_context(theirs):
        assert drawn() == wanted
        assert all(matplotlib.rcParams[k] in (v, [v]) for k, v in theirs.items())


def test_a_figure_that_cannot_be_finished_leaves_the_old_one(monkeypatch):
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    figures.save(plt.figure(), frame, "drawn", "smoke")
    before = {p.name: p.read_bytes() for p in figures_dir("smoke").iterdir()}
    monkeypatch.setattr(os, "fsync", lambda file: fail())

    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    for save in (
        lambda: figures.save(plt.figure(), frame * 2, "drawn", "smoke"),
        lambda: figures.save_table(frame * 2, "drawn", "smoke"),
    ):
        with pytest.raises(UserError, match=r"cannot write to .*: No space left on device"):
            save()
        assert {p.name: p.read_bytes() for p in figures_dir("smoke").iterdir()} == before


WHAT = {"dataset": "digits", "alpha": 0.1, "stage": "before", "scope": "cohort",
        "average": "pooled"}  # fmt: skip


def test_labels_at_line_ends_do_not_overlap():
    rounds = np.arange(1, 41)
    lines = [
        pd.DataFrame(
            {
                **WHAT, "method": f"method-{i}", "round": rounds, "mean": 90 + 0.01 * i,
                "low": 60, "high": 91, "seeds": 1,
            }
        )
        for i in range(figures.MANY)
    ]  # fmt: skip
    assert not overlaps(figures.plot_convergence(pd.concat(lines)))


def test_every_other_plot_draws(results):
    from fedobp_lib.data.datasets import load

    config = grid("smoke")[0].resolved()
    labels = load("digits").labels
    drawn = [
        figures.plot_accuracy(accuracy_table(results)),
        figures.plot_partition(make_partition(config, load("digits")), labels, "split"),
    ]
    for figure in drawn:
        figure.canvas.draw()
        assert figure.axes


def test_many_methods_get_a_panel_each():
    """Best first, FedOBP's own panel in its colour, every curve where its frame says."""
    rounds = np.arange(1, 6)
    lines = []
    for number, method in enumerate(list(METHODS)[: figures.MANY + 2]):
        mean = 40.0 + number + rounds
        lines.append(
            pd.DataFrame({**WHAT, "method": method, "round": rounds,
                          "mean": mean, "seeds": 2, "low": mean - 1, "high": mean + 1})
        )  # fmt: skip
    figure = figures.plot_convergence(pd.concat(lines))
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    shown = [title.split("  ")[0] for title in titles if title]
    assert {axis.get_xlabel() for axis in figure.axes[len(shown) - 4 : len(shown)]} == {"round"}
    told = [text.get_text() for block in figure.subfigs for text in block.texts]
    assert any("clients of the round, pooled, before training" in text for text in told)
    best_first = list(METHODS)[: figures.MANY + 2][::-1]
    assert shown == [METHODS[method].title for method in best_first]
    for axis, line in zip(figure.axes, lines[::-1], strict=False):
        assert any(np.array_equal(drawn.get_ydata(), line["mean"]) for drawn in axis.get_lines()
                   if drawn.get_linewidth() > 1.5)  # fmt: skip


def test_plot_run_names_the_run(results):
    figure = figures.plot_run(results[-1])
    assert figure.axes[0].get_title(loc="left") == "fedobp on digits, α = 0.1, seed 1"


def lines(method, count=12):
    return pd.DataFrame(
        {
            **WHAT, "method": method, "round": range(1, count + 1), "mean": 50.0, "low": 49.0,
            "high": 51.0, "seeds": 1,
        }
    )  # fmt: skip


@pytest.mark.parametrize("methods", [["fedavg", "fedobp"], list(METHODS)])
def test_logged_curves_lie_dotted_behind_ours_and_are_named(methods):
    ours = pd.concat([lines(method) for method in methods])
    behind = pd.concat([lines("fedavg", count=40), lines("apfl").assign(dataset="mnist")])
    figure = figures.plot_convergence(ours, behind=behind)
    dotted = [line for axis in figure.axes for line in axis.lines if line.get_linestyle() == ":"]
    (line,) = [line for line in dotted if len(line.get_xdata())]
    assert max(line.get_xdata()) == 12  # no further than ours
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == ["dotted: logged by the paper's authors"]
    assert figures.plot_convergence(ours).legends == []


def test_a_logged_curve_ends_where_ours_of_that_panel_does(tmp_path):
    rounds = {"mnist": 10, "fmnist": 40}
    runs = [
        fake_run(tmp_path, 50.0, method="fedavg", dataset=name, rounds=length)
        for name, length in rounds.items()
    ]
    frame = convergence_frame(runs)
    longer = pd.concat(
        frame.query("round == 1").assign(round=number, mean=40.0) for number in range(1, 101)
    )
    drawn = figures.plot_convergence(frame, behind=longer)
    for axis, length in zip(drawn.axes, rounds.values(), strict=True):
        dotted = [line for line in axis.get_lines() if line.get_linestyle() == ":"]
        assert [max(line.get_xdata()) for line in dotted] == [length]


@pytest.mark.parametrize("theirs", [30.0, 80.0])
def test_a_logged_curve_is_in_sight_also_where_it_is_far_from_ours(theirs):
    figure = figures.plot_convergence(lines("fedavg"), behind=lines("fedavg").assign(mean=theirs))
    low, high = figure.axes[0].get_ylim()
    assert low < min(theirs, 49) and max(theirs, 51) < high


def test_no_two_methods_look_alike():
    looks = [(look["color"], look["ls"]) for look in style.method_style(list(METHODS)).values()]
    assert len(set(looks)) == len(METHODS)


def test_three_sources_are_marked_apart(results):
    table = accuracy_table(results).assign(published_mean=90.0, logged_mean=91.0)
    figure = figures.plot_accuracy(table)
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == ["ours", "printed by the paper", "logged by its authors"]
    markers = {line.get_marker() for line in figure.axes[0].lines}
    assert {"x", "s", "o"} <= markers
    assert "logged by its authors" not in [
        text.get_text() for legend in figures.plot_accuracy(table, "logged").legends
        for text in legend.get_texts()
    ]  # fmt: skip


def test_the_foot_says_where_the_numbers_are_from():
    """Printed numbers beside the authors' logs are not called logged."""
    for foot in (None, figures.PRINTED):
        figure = plt.figure()
        figures.save(figure, pd.DataFrame({"a": [1]}), "x", "authors", *([foot] if foot else []))
        assert [text.get_text() for text in figure.texts] == [foot or style.LOGGED_BY]
