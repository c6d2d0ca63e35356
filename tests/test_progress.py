"""The progress bar, where somebody looks and where a log is written."""

import io
import sys

import pytest

from fedobp_lib import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand, for the bar and for what throttles it."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def test_a_log_gets_a_line_at_most_every_half_minute(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress.progress_bar(1000, True) as bar:
        for number in range(1000):  # one round a second
            clock[0] += 1
            bar.set_description(f"run {number}")
            bar.update()
    text = sys.stderr.getvalue()
    lines = text.splitlines()
    assert 25 <= len(lines) <= 1000 / 30 and "\r" not in text
    assert all("round" in line and len(line) <= 80 for line in lines)


def test_a_log_of_a_short_run_stays_empty(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for show in (True, None, False):
        with progress.progress_bar(5, show) as bar:
            bar.update(5)
    assert sys.stderr.getvalue() == ""


def test_a_terminal_has_a_bar_at_once(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for show in (True, None):
        with progress.progress_bar(5, show) as bar:
            bar.update(5)
        assert "\r" in sys.stderr.getvalue() and "round" in sys.stderr.getvalue()
