"""The order of the wings is kept, and what keeps it notices a breach."""

import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

PLANTED = {
    "an upward import": ("paper/published.py", "from ..runs.store import RunResult\n"),
    "an upward import inside a function": (
        "data/npz.py",
        "def late():\n    from ..training import loop\n    return loop\n",
    ),
    "a circle between neighbours": ("results/titles.py", "from .convergence import smooth\n"),
    "a module without a place": ("somewhere.py", ""),
}


def lint(folder):
    """`lint-imports` on the package in a folder."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    """A copy of the package with the contract."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fedobp_lib", tmp_path / "fedobp_lib", ignore=ignored)
    return tmp_path


def test_the_order_holds(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("breach", PLANTED)
def test_a_planted_breach_is_found(copy, breach):
    place, text = PLANTED[breach]
    with open(copy / "fedobp_lib" / place, "a", encoding="utf-8") as file:
        file.write(text)
    done = lint(copy)
    assert done.returncode == 1, done.stdout
    assert place.removesuffix(".py").split("/")[-1] in done.stdout
