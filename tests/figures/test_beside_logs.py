"""Our runs less the logged ones, as drawn: each difference at its place and in sight."""

import pandas as pd
import pytest
from matplotlib.colors import same_color

from fedobp_lib.figures import plot_beside_logs
from fedobp_lib.figures.style import HIGHLIGHT

COLUMNS = ["dataset", "alpha", "method", "stage", "round", "difference", "margin", "verdict"]


@pytest.fixture
def table():
    return pd.DataFrame(
        [
            ["mnist", 0.1, "fedavg", "before", 100, 0.25, 2.0, "agrees"],
            ["mnist", 0.1, "fedavg", "after", 100, -0.5, 2.0, "agrees"],
            ["mnist", 0.1, "apfl", "before", 100, 3.0, 2.0, "differs"],
            ["mnist", 0.1, "apfl", "before", 50, 9.0, 2.0, "differs"],  # not of this round
            ["cifar100", 0.1, "fedavg", "before", 100, 0.0, 1.5, "agrees"],  # one stage alone
            ["cifar100", 0.1, "fedobp", "before", 100, -40.0, 1.5, "differs"],
        ],
        columns=COLUMNS,
    )


def marks(axis):
    """Difference, method, whether it is filled and whether it stands out, of each mark."""
    names = {
        y: label.get_text()
        for y, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)
    }
    for line in axis.get_lines():
        if line.get_marker() in ("o", "D"):
            ((x, y),) = line.get_xydata()
            nearest = min(names, key=lambda place, y=y: abs(place - y))
            filled = same_color(line.get_markerfacecolor(), line.get_color())
            yield x, names[nearest], filled, same_color(line.get_color(), HIGHLIGHT)


def test_each_difference_stands_beside_its_method(table):
    mnist, cifar = plot_beside_logs(table).axes
    assert sorted(marks(mnist)) == [
        (-0.5, "FedAvg", False, False), (0.25, "FedAvg", True, False), (3.0, "APFL", True, True),
    ]  # fmt: skip
    assert (0.0, "FedAvg", True, False) in marks(cifar)


def test_nothing_is_cut_off_and_what_is_far_out_stands_at_the_edge_with_its_number(table):
    figure = plot_beside_logs(table)
    for axis in figure.axes:
        low, high = sorted(axis.get_xlim())
        bottom, top = sorted(axis.get_ylim())
        for line in axis.get_lines():
            if line.get_marker() in ("o", "D"):
                ((x, y),) = line.get_xydata()
                assert low < x < high and bottom + 0.2 < y < top - 0.2
    told = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert told == ["-40.0"]


def test_what_the_rule_allows_ends_in_sight(table):
    """In each panel by its own numbers."""
    mnist, cifar = plot_beside_logs(table[table["difference"] > -40]).axes
    assert 3.0 < mnist.get_xlim()[1] < 4.0 and 1.5 < cifar.get_xlim()[1] < 2.0


def test_without_a_pair_it_says_so(table):
    (axis,) = plot_beside_logs(table[:0]).axes
    assert [text.get_text() for text in axis.texts] == ["nothing to compare yet"]
