"""Whether an executed notebook is up to date."""

import shutil
from pathlib import Path

from helpers import ROOT

from fedobp_lib.report import freshness


def test_the_stamp_names_the_library(tmp_path, monkeypatch):
    package = tmp_path / "package"
    caches = shutil.ignore_patterns("__pycache__")  # others may be writing there
    shutil.copytree(Path(freshness.__file__).parents[1], package, ignore=caches)
    monkeypatch.setattr(freshness, "__file__", str(package / "report" / "freshness.py"))
    notebook = ROOT / "notebooks" / "02_accuracy_tables.ipynb"

    def mark():
        return freshness.stamp(notebook, {}, [], tmp_path)

    before = mark()
    assert mark() == before
    with (package / "methods" / "fedobp.py").open("a") as file:
        file.write("# changed\n")
    assert mark() != before
