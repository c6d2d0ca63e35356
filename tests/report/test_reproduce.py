"""`fedobp reproduce`: which runs and notebooks a table needs, the dry run, and stopping it."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
from helpers import ROOT
from nbformat.v4 import new_code_cell, new_notebook

from fedobp_lib.cli import main
from fedobp_lib.data import datasets
from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS
from fedobp_lib.paper.published import published_accuracy
from fedobp_lib.paths import VARIABLES, figures_dir, runs_dir
from fedobp_lib.report.reproduce import _title, choose, reproduce
from fedobp_lib.runs import estimate, execution
from fedobp_lib.runs.store import load_data, run_id
from fedobp_lib.simulation import Simulation

COUNTS = """
from fedobp_lib import grid
from fedobp_lib.runs.sweeps import missing
configs = grid(PRESET, DATASETS, ALPHAS, METHODS, SEEDS, ROUNDS)
print("needs", len(configs), "lacks", len(missing(configs)))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one notebook, which says how many of its runs are missing."""
    root = tmp_path / "project"
    (root / "notebooks").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    (root / "fedobp_lib").symlink_to(ROOT / "fedobp_lib")
    names = ("PRESET", "DATASETS", "ALPHAS", "METHODS", "SEEDS", "ROUNDS", "DEVICE")
    parameters = new_code_cell("\n".join(f"{name} = None" for name in names))
    parameters.metadata["tags"] = ["parameters"]
    notebook = new_notebook(cells=[parameters, new_code_cell(COUNTS)])
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, root / "notebooks" / "02_counts.ipynb")
    monkeypatch.chdir(root)
    return root


def cells(configs):
    return {(c.dataset, c.alpha, c.method, c.seed) for c in configs}


@pytest.mark.parametrize("number", [1, 6])
def test_a_table_at_the_preset_paper_has_the_papers_cells(number):
    plan = choose("paper", tables=[number], seeds=[3])
    published = published_accuracy().query("table == @number")
    wanted = {(row.dataset, row.alpha) for row in published.itertuples()}
    assert cells(plan.runs) == {(*cell, m, 3) for cell in wanted for m in METHODS}
    assert [path.name[:2] for path in plan.notebooks] == ["02"]
    (parameters,) = plan.notebooks.values()
    assert set(parameters["datasets"]) == {dataset for dataset, _ in wanted}


def test_a_column_of_a_table_is_of_the_papers_size_at_the_preset_quick():
    """`fedobp reproduce --table 6 --datasets mnist --rounds 20 --seeds 1`."""
    plan = choose("quick", tables=[6], datasets=["mnist"], rounds=20, seeds=[1])
    assert cells(plan.runs) == {("mnist", a, m, 1) for a in (0.1, 0.5) for m in METHODS}
    sizes = {(c.clients, c.participation, c.rounds, c.local_epochs) for c in
             (config.resolved() for config in plan.runs)}  # fmt: skip
    assert sizes == {(100, 0.1, 20, 5)}


def test_small_presets_keep_their_own_data_sets_and_what_is_given_wins():
    plan = choose("quick", tables=[6], figures=[3], methods=["fedobp"])
    assert {(c.dataset, c.alpha, c.resolved().clients) for c in plan.runs} == {("digits", 0.1, 20)}
    assert [path.name[:2] for path in plan.notebooks] == ["02", "03"]
    plan = choose("paper", figures=[2, 7], methods=["fedavg"], seeds=[0])
    figure_2, figure_7 = ("cifar10", "svhn"), ("mnist", "medmnistC")
    for dataset, alpha in [*((d, 0.1) for d in figure_2), *((d, 0.5) for d in figure_7)]:
        assert (dataset, alpha, "fedavg", 0) in cells(plan.runs)
    plan = choose("paper", figures=[2], datasets=["mnist"], alphas=[1.0], seeds=[0])
    assert {c[:2] for c in cells(plan.runs)} == {("mnist", 1.0)}
    (parameters,) = choose("paper", tables=[1], only=["02"]).notebooks.values()
    assert parameters == {}  # the notebook was asked for as a whole


def test_a_run_that_several_notebooks_need_is_there_once():
    plan = choose("smoke", only=["02", "05", "06"], methods=["fedavg", "fedobp"])
    ids = [run_id(c.resolved(), load_data(c.dataset)) for c in plan.runs]
    # FedAvg; FedOBP in six variants, of which the first is that of 02 and 05.
    assert len(ids) == len(set(ids)) == 7
    plan = choose("paper", tables=[1, 8], methods=["fedavg"], seeds=[0])
    order = [config.dataset for config in plan.runs]
    assert order == sorted(order, key=order.index) and len(set(order)) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--table 99", "no table 99; there are 1, 2, 3"),
        ("--figure 13", "no figure 13"),
        ("--figure one", "invalid int value"),
        ("--all --table 1", "--all is everything"),
        ("--only 77", "no notebook '77'"),
        ("--table 1 --methods fedopb", "did you mean 'fedobp'"),
        ("--table 1 --datasets minst --dry-run", "did you mean 'mnist'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(capsys, arguments, message):
    try:
        code = main(["reproduce", *arguments.split()])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1
    assert not runs_dir().exists()


def test_the_runs_come_first_and_the_notebook_finds_them_finished(project, capsys, monkeypatch):
    command = "reproduce --preset smoke --table 1 --methods fedavg majority-class --rounds 2"
    assert main(command.split()) == 0
    executed = project / "executed" / "smoke" / "02_counts.ipynb"
    assert "needs 2 lacks 0" in executed.read_text()
    assert "2 runs: 0 finished, 2 to compute" in capsys.readouterr().err
    monkeypatch.setattr(Simulation, "step", lambda self: pytest.fail("computed again"))
    monkeypatch.setattr("papermill.execute_notebook", lambda *a, **k: None)
    assert main(command.split()) == 0
    assert "2 runs: 2 finished, 0 to compute" in capsys.readouterr().err


def test_a_notebook_is_executed_again_only_where_something_has_changed(
    project, capsys, monkeypatch, tmp_path
):
    """Its outputs depend on its source, parameters and runs, on the library and on the data."""
    notebook = project / "notebooks" / "02_counts.ipynb"
    figure = figures_dir("smoke") / "counts.csv"
    executed = project / "executed" / "smoke" / "02_counts.ipynb"

    def draw(path, out, parameters):
        drawn.append(parameters)
        out.write_text(path.read_text())
        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.write_text("drawn\n")

    def again(*more):
        drawn.clear()
        main(["reproduce", "--preset", "smoke", "--only", "02", *few, *more])
        return len(drawn)

    drawn, few = [], ["--methods", "majority-class", "--rounds", "1"]
    monkeypatch.setattr("fedobp_lib.report.reproduce._execute", draw)
    assert again() == 1 and again() == 0
    assert "up to date" in capsys.readouterr().err
    assert again("--redraw") == 1
    assert again("--seeds", "4") == 1 and again() == 1 and again() == 0
    for change in (
        lambda: figure.write_text("edited\n"),
        figure.unlink,
        lambda: notebook.write_text(notebook.read_text().replace("needs", "wants")),
        executed.unlink,
        lambda: executed.write_text(executed.read_text().replace("wants", "needs")),
        lambda: np.savez(tmp_path / "data" / "mnist.npz", images=0),
    ):
        (tmp_path / "data").mkdir(exist_ok=True)
        change()
        assert again() == 1 and again() == 0
    monkeypatch.setattr("fedobp_lib.config.RESULTS_VERSION", -1)
    monkeypatch.setattr("fedobp_lib.runs.store.RESULTS_VERSION", -1)  # all runs have other names
    assert again() == 1 and again() == 0


def foreign_kernel(folder, monkeypatch):
    """A kernel of another program that calls itself `python3`, and is found first."""
    place = folder / "jupyter" / "kernels" / "python3"
    place.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")


def test_the_kernel_is_this_interpreter_and_has_the_folders_meant_here(
    project, monkeypatch, tmp_path, capsys
):
    """Relative folders, from a subfolder; and another program's kernel of the same name."""
    foreign_kernel(tmp_path, monkeypatch)
    here = project / "sub folder"
    here.mkdir()
    monkeypatch.chdir(here)
    folders = {name: f"$my/{name.lower()}" for name in VARIABLES}
    for name, folder in folders.items():
        monkeypatch.setenv(name, folder)
    notebook = project / "notebooks" / "02_counts.ipynb"
    source = (
        "import sys\nfrom fedobp_lib import paths\n"
        "print(sys.executable, paths.runs_dir(), paths.data_dir(), "
        "paths.figures_dir('x').parent, paths.executed_dir('x').parent, sep='|')\n"
    )
    cells = nbformat.read(notebook, as_version=4)
    cells.cells[1].source = source + COUNTS
    nbformat.write(cells, notebook)
    command = "reproduce --preset smoke --only 02 --methods majority-class --rounds 1"
    assert main(command.split()) == 0
    names = ("FEDOBP_RUNS", "FEDOBP_DATA", "FEDOBP_FIGURES", "FEDOBP_EXECUTED")
    wanted = "|".join([sys.executable, *(str(here / folders[name]) for name in names)])
    executed = nbformat.read(here / folders["FEDOBP_EXECUTED"] / "smoke" / notebook.name, 4)
    (output,) = executed.cells[-1].outputs
    assert output.text == f"{wanted}\nneeds 1 lacks 0\n"
    assert not (project / "executed").exists() and not (project / "$my").exists()


@pytest.mark.parametrize("name", ["FEDOBP_EXECUTED", "FEDOBP_FIGURES", "FEDOBP_RUNS"])
def test_a_read_only_folder_is_told_before_the_runs(
    project, monkeypatch, tmp_path, capsys, disks, name
):
    (tmp_path / "kept").mkdir()
    monkeypatch.setenv(name, str(disks.read_only(tmp_path / "kept")))
    monkeypatch.setattr(Simulation, "step", lambda self: pytest.fail("computed"))
    assert main(["reproduce", "--preset", "smoke", "--only", "02", "--methods", "fedavg"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fedobp: cannot write to ") and "kept" in error
    assert error.endswith("Read-only file system")


@pytest.mark.parametrize("name", ["FEDOBP_EXECUTED", "FEDOBP_FIGURES"])
def test_a_folder_that_cannot_be_written_is_told_before_the_runs(
    project, monkeypatch, tmp_path, capsys, name
):
    (tmp_path / "file").touch()
    monkeypatch.setenv(name, str(tmp_path / "file"))
    assert (
        main(["reproduce", "--preset", "smoke", "--only", "02", "--methods", "majority-class"]) == 2
    )
    error = capsys.readouterr().err
    assert f"cannot write to {tmp_path / 'file' / 'smoke'}: " in error
    assert error.count("\n") == 1 and not runs_dir().exists()


def test_a_folder_with_accents_on_a_machine_without_utf_8(project, tmp_path):
    """The whole chain; and braces, which papermill would fill in."""
    home = tmp_path / "clé {x}"
    shutil.copytree(project, home, symlinks=True)
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    inside = {n: v for n, v in os.environ.items() if n not in VARIABLES}
    for command in (
        "reproduce --preset smoke --only 02 --methods majority-class --rounds 1",
        "runs list",
        "findings",
    ):
        done = subprocess.run(
            [sys.executable, "-m", "fedobp_lib", *command.split()],
            cwd=home, env=inside | plain, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode(errors="replace")
    executed = home / "executed" / "smoke" / "02_counts.ipynb"
    assert "needs 1 lacks 0" in executed.read_text(encoding="utf-8")


def test_no_room_left_for_an_executed_notebook_is_one_line(project, monkeypatch, capsys):
    def full(path, out, parameters):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fedobp_lib.report.reproduce._execute", full)
    command = "reproduce --preset smoke --only 02 --methods majority-class --rounds 1"
    assert main(command.split()) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fedobp: cannot write ") and error.endswith("No space left on device")
    assert "02_counts.ipynb" in error


FILLS = """
import pandas as pd
from fedobp_lib.figures import save_table
save_table(pd.DataFrame({"n": range(20_000)}), "many", PRESET)
print("x" * 100_000)
"""


@pytest.mark.parametrize("name", ["FEDOBP_EXECUTED", "FEDOBP_FIGURES"])
def test_a_disk_that_is_full_is_one_line_and_nothing_torn(
    project, monkeypatch, capsys, disks, tmp_path, name
):
    """A real one: for the executed notebooks, or for figures and tables."""
    notebook = project / "notebooks" / "02_counts.ipynb"
    content = nbformat.read(notebook, as_version=4)
    content.cells.append(new_code_cell(FILLS))
    nbformat.write(content, notebook)
    place = disks.small(tmp_path / "disk", 40)
    monkeypatch.setenv(name, str(place))
    command = "reproduce --preset smoke --only 02 --methods majority-class --rounds 1"
    assert main(command.split()) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("fedobp: cannot write") and last.endswith("No space left on device")
    assert str(place) in last and not [path for path in place.rglob("*") if path.is_file()]
    disks.resize(place, 10_000)
    assert main(command.split()) == 0
    assert "1 runs: 1 finished" in capsys.readouterr().err
    assert pd.read_csv(figures_dir("smoke") / "many.csv")["n"].tolist() == list(range(20_000))


def test_a_dry_run_computes_no_run_and_leaves_nothing(project, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(execution, "take_rounds", lambda *a: pytest.fail("a run was computed"))
    monkeypatch.setattr(datasets, "fetch", lambda *a: pytest.fail("downloaded"))
    before = sorted(tmp_path.rglob("*"))
    arguments = "reproduce --preset smoke --table 6 --datasets digits mnist --methods fedavg fedobp"
    assert main([*arguments.split(), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert sorted(tmp_path.rglob("*")) == before
    assert err == "" and max(map(len, out.splitlines())) <= 80
    assert "8 runs: 0 finished, 8 missing" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["mnist", "avgcnn", "0.1", "4", "2", "unknown"] in [line[:6] for line in lines]
    assert "4 runs not counted: data set not here; fedobp data fetch mnist" in out
    assert "measured now" in out


def test_ctrl_c_keeps_finished_runs_and_says_how_to_go_on(project):
    arguments = (
        "reproduce --preset smoke --only 02 --methods majority-class fedavg --seeds 0 1 2 3 "
        "--rounds 300"
    )
    command = [sys.executable, "-m", "fedobp_lib", *arguments.split()]
    # Whoever is started in the background by a shell ignores Ctrl-C, and so do its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=project, env=dict(os.environ)
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 300
    while not list(runs_dir().glob("*/summary.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    # Python forgets a Ctrl-C that comes while it clears something away; people press again.
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert error.endswith("fedobp: stopped; finished runs are kept, the same command continues\n")
    assert "Traceback" not in error
    kept = {p: p.read_bytes() for p in runs_dir().glob("*/summary.json")}
    assert 0 < len(kept) < 8
    plan = choose("smoke", only=["02"], methods=["majority-class", "fedavg"], seeds=[0, 1, 2, 3],
                  rounds=300)  # fmt: skip
    frame = estimate.forecast(plan.runs)
    assert (frame["basis"] == estimate.FINISHED).sum() == len(kept)
    with pytest.raises(UserError, match="no notebook"):
        choose("smoke", only=["03"])


def test_the_first_line_says_how_a_preset_was_changed(project):
    changed = choose("quick", tables=[6], datasets=["mnist"], rounds=20, seeds=[1])
    title = _title(changed)
    assert title == "preset quick, but datasets mnist, alphas 0.1 0.5, rounds 20, seeds 1"
    assert "embedded digits" in _title(choose("quick"))


def test_the_authors_logs_are_drawn_without_runs_or_data(monkeypatch, tmp_path):
    plan = choose(source="logged")
    assert [path.name[:2] for path in plan.notebooks] == ["02", "03", "04", "05", "06"]
    assert plan.runs == [] and plan.runs_of == {}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    (tmp_path / "fedobp_lib").symlink_to(ROOT / "fedobp_lib")
    (tmp_path / "pyproject.toml").touch()
    reproduce(choose(tables=[8], source="logged"), "cpu")
    assert not runs_dir().exists()
    table = pd.read_csv(figures_dir("authors") / "normalizations.csv")
    assert len(table) == 32 and table["mean"].notna().all()
    assert (figures_dir("authors") / "normalization_curves.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "loged"], "did you mean 'logged'"),
        (["--source", "logged", "--only", "00"], "nothing to show of the authors' logs"),
        (["--source", "logged", "--datasets", "mnist"], "drawn whole"),
        (["--source", "logged", "--rounds", "20"], "drawn whole"),
        (["--only", "00", "--rounds", "0"], "rounds must be at least 1"),
    ],
)
def test_logs_that_cannot_be_shown_are_one_line(capsys, arguments, message):
    assert main(["reproduce", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
