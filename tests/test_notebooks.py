"""The notebooks: they run, by nbval and by papermill, and their numbers are right."""

import ast
import contextlib
import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from helpers import ROOT

from fedobp_lib import grid, run
from fedobp_lib.paths import figures_dir, runs_dir

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def nbval(folder, *arguments, answer=580):
    """Exit code and words of a pytest with nbval, which is ended after `answer` seconds.

    Very rarely a kernel never answers, on a machine where it otherwise does within seconds; nbval
    waits 2,000 of them. Then all are executed once more, and a warning shows where the first one
    stood. What hangs each time fails.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-o", f"faulthandler_timeout={answer * 0.9}", *map(str, arguments)]
    one_thread = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    said = folder / "said.txt"  # no pipe: a kernel left behind would hold it open
    for last in (False, True):
        with said.open("w") as out, contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                command, cwd=ROOT, env=one_thread, stdout=out, stderr=subprocess.STDOUT,
                timeout=answer,
            )  # fmt: skip
            return done.returncode, said.read_text()
        if not last:
            warnings.warn(f"no answer in {answer} s:\n{said.read_text()[-2500:]}", stacklevel=2)
    pytest.fail(f"twice no answer in {answer} s:\n{said.read_text()[-2500:]}")


def test_an_nbval_that_hangs_is_asked_once_more(tmp_path):
    """The first time it waits for ever, then it answers; where it always waits, it fails."""
    (tmp_path / "test_it.py").write_text(
        "import pathlib, time\n"
        "def test_it():\n"
        f"    mark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
        "    if not mark.exists():\n"
        "        mark.write_text('')\n"
        "        time.sleep(999)\n"
    )
    with pytest.warns(UserWarning, match="no answer in 60 s"):
        code, said = nbval(tmp_path, tmp_path / "test_it.py", answer=60)
    assert code == 0 and "1 passed" in said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_thin_small_and_clean(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    names = [node.targets[0].id for node in ast.parse(tagged[0].source).body]
    common = ["PRESET", "DATASETS", "ALPHAS", "METHODS", "SEEDS", "ROUNDS", "DEVICE"]
    assert names in (common, [*common, "SOURCE"])
    assert sum(len(c.source.splitlines()) for c in code) < 62
    assert path.stat().st_size < 500_000
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    text = path.read_text()
    assert all(cell.execution_count for cell in code), "commit the notebook executed"
    for word in (str(ROOT), str(Path.home()) + "/", "/tmp/", '"stderr"'):
        assert word not in text


def test_nbval_executes_them_all(tmp_path):
    """Smoke-sized copies with few methods: nbval takes no parameters, so they are replaced."""
    halves = [tmp_path / "odd", tmp_path / "even"]
    for number, path in enumerate(NOTEBOOKS):
        text = json.loads(path.read_text())
        for cell in text["cells"]:
            if "parameters" in cell["metadata"].get("tags", []):
                source = "".join(cell["source"]).replace('"quick"', '"smoke"')
                cell["source"] = source.replace(
                    "METHODS = None", 'METHODS = ["majority-class", "fedavg", "fedobp"]'
                )
        folder = halves[number % 2]
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_text(json.dumps(text))
    # Kernels mostly start and draw, on one core; so both halves go at once.
    with ThreadPoolExecutor() as pool:
        for code, said in pool.map(lambda half: nbval(half, "--nbval-lax", half), halves):
            assert code == 0 and "passed" in said, said[-3000:]


def test_a_strict_nbval_finds_no_difference_but_what_is_left_out(tmp_path):
    """Of a notebook that shows package data, the same on every machine."""
    notebook = ROOT / "notebooks" / "09_where_the_numbers_come_from.ipynb"
    leave_out = ["--nbval-sanitize-with", ROOT / "tests" / "nbval.cfg"]
    for more, expected in ((leave_out, 0), ([], 1)):
        code, said = nbval(tmp_path, "--nbval", *more, notebook)
        assert code == expected, said[-3000:]


def test_a_parameter_that_the_notebook_does_not_have_is_refused(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(
            ROOT / "notebooks" / "08_parameter_counts.ipynb", tmp_path / "out.ipynb",
            parameters={"RONDS": 2}, kernel_name="python3", cwd=str(ROOT), progress_bar=False,
            iopub_timeout=120,
        )  # fmt: skip
    assert caught.value.ename == "UserError"
    assert caught.value.evalue == "unknown parameter 'RONDS'; did you mean 'ROUNDS'?"
    assert not figures_dir("quick").exists()


def test_papermill_with_other_parameters_gives_the_runs_own_numbers(tmp_path):
    """The table's cell is the mean over the seeds of what the runs on disk say."""
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        ROOT / "notebooks" / "02_accuracy_tables.ipynb",
        out,
        parameters={"PRESET": "smoke", "METHODS": ["fedavg", "fedobp"], "SEEDS": [3, 5],
                    "ROUNDS": 2},
        kernel_name="python3", cwd=str(ROOT), progress_bar=False, iopub_timeout=120,
    )  # fmt: skip
    table = pd.read_csv(figures_dir("smoke") / "accuracy_before_pooled_best.csv")
    configs = grid("smoke", methods=["fedobp"], seeds=[3, 5], rounds=2)
    best = [run(config).accuracy(which="best") for config in configs]
    ours = table.set_index("method").loc["fedobp"]
    assert ours["mean"] == pytest.approx(sum(best) / 2) and ours["seeds"] == 2
    assert f"{ours['mean']:.2f}" in out.read_text()
    folders = sorted(p.name for p in runs_dir().iterdir())
    assert len(folders) == 4
