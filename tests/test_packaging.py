"""One source of truth: pyproject.toml; the other files must agree with it."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

from fedobp_lib.methods import METHODS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"] + EXTRAS["test"]]
BY_PIP = ["flwr>=1.34,<2"]  # in the conda environment


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_constraints_are_names_and_versions_only():
    for line in constraints():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), line


def test_constraints_pin_every_requirement_inside_its_range():
    pins = {name.lower().replace("_", "-"): v for name, v in (c.split("==") for c in constraints())}
    for needed in NEEDED:
        assert needed.specifier.contains(Version(pins[needed.name.lower()])), needed


def test_what_extras_bring_is_there_in_tests():
    assert EXTRAS["flower"] == BY_PIP and set(BY_PIP) <= set(EXTRAS["test"])


def test_conda_environment_lists_the_same_ranges():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    *listed, from_pip = environment["dependencies"]
    listed.remove("pip")
    renamed = {"torch": "pytorch", "ray": "ray-core"}
    by_conda = [n for n in NEEDED if n.name != "flwr"]
    expected = [renamed.get(n.name, n.name) + str(n.specifier) for n in by_conda]
    assert sorted(listed) == sorted([f"python{PROJECT['requires-python']}", *expected])
    # pip reads this list as a requirements file, in which --no-deps is not allowed.
    assert from_pip == {"pip": [*BY_PIP, "-e ."]}


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "CITATION.cff", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".ci/run"],
)
def test_files_are_there(name):
    assert (ROOT / name).stat().st_size > 50


def test_ci_calls_the_readme_test_command_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "make test" and len(lines) == 4
    assert "make test" in (ROOT / "README.md").read_text()


def test_measured_tables_are_those_of_their_files():
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "table.py")
    table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(table)
    text = (ROOT / "benchmarks" / "README.md").read_text()
    assert table.BLOCK.search(text) and table.filled(text) == text


def test_the_readme_lists_every_method():
    listed = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(METHODS)


def test_every_data_file_of_the_package_is_installed():
    """What setuptools takes into a wheel holds all that is not Python."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    taken = set()
    for package, patterns in build["package-data"].items():
        folder = ROOT / package.replace(".", "/")
        taken |= {path for pattern in patterns for path in folder.glob(pattern)}
    ours = (ROOT / "fedobp_lib").rglob("*")
    data = {
        path
        for path in ours
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert data and data <= taken


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("target", ["lab", "notebooks"])
@pytest.mark.parametrize("place", ["JUPYTER_PATH", "JUPYTER_DATA_DIR"])
def test_jupyter_starts_this_environments_kernel_whatever_else_has_its_name(
    target, place, tmp_path
):
    """Beside a kernel of another program, which calls itself `python3` and would be found first."""
    foreign = tmp_path / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    copy = tmp_path / "kit"
    own = copy / ".venv" / "share" / "jupyter" / "kernels" / "python3"
    own.mkdir(parents=True)
    (own / "kernel.json").write_text(json.dumps(spec | {"display_name": "ours"}))
    (copy / "Makefile").write_text((ROOT / "Makefile").read_text())
    told = copy / ".venv" / "bin" / "jupyter"  # says which kernel it would start
    told.parent.mkdir()
    told.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from jupyter_client.kernelspec import "
        'get_kernel_spec as of; print(of("python3").display_name)\'\n'
    )
    told.chmod(0o755)
    environment = os.environ | {place: str(tmp_path), "JUPYTER_PREFER_ENV_PATH": "0"}
    done = subprocess.run(
        ["make", "--silent", "--old-file=install", target],
        cwd=copy, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["ours"], done.stderr
