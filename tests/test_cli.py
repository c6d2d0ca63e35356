"""The command line: one JSON object, one clear line for bad input, nothing left behind."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

from fedobp_lib.cli import main
from fedobp_lib.config import RunConfig
from fedobp_lib.data.partition import dirichlet_partition
from fedobp_lib.paths import runs_dir
from fedobp_lib.terminal import TOGETHER, WIDTH, aligned, folded

TINY = ["--clients", "6", "--participation", "0.5", "--rounds", "2", "--local-epochs", "1"]


def test_run_prints_one_json_object(capsys):
    assert main(["run", *TINY, "--quantile", "0.999", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert out.count("\n") == 1 and err.startswith("device: ") and err.count("\n") == 1
    assert result["method"] == "fedobp" and result["rounds"] == 2
    assert set(result["final"]) == {"before", "after"}
    for numbers in result["final"].values():
        assert set(numbers) == {"client_mean", "pooled"}
        assert all(0 <= value <= 100 for value in numbers.values())
    assert 580 <= result["personalized_parameters"] <= 585
    assert result["seconds_total"] == pytest.approx(
        2 * result["seconds_per_round"] + result["seconds_evaluation"]
    )
    assert (runs_dir() / result["run_id"]).is_dir()


def test_every_flag_of_the_example_reaches_the_run(tmp_path, capsys):
    path = tmp_path / "split.npz"
    dirichlet_partition(np.arange(1797) % 10, 8, 1.0, 3).save(path)
    flags = (
        "--method fedobp --dataset digits --alpha 0.5 --clients 8 --participation 0.25 "
        "--rounds 2 --local-epochs 1 --batch-size 16 --lr 0.02 --momentum 0.5 --quantile 0.99 "
        f"--seed 4 --partition {path} --device cpu --eval-every 1 --json"
    )
    assert main(["run", *flags.split()]) == 0
    folder = runs_dir() / json.loads(capsys.readouterr().out)["run_id"]
    config = RunConfig(**json.loads((folder / "config.json").read_text())["config"])
    assert (config.alpha, config.clients, config.participation) == (0.5, 8, 0.25)
    assert (config.batch_size, config.lr, config.momentum, config.seed) == (16, 0.02, 0.5, 4)
    assert (config.settings["quantile"], config.eval_every) == (0.99, 1)
    assert config.partition == str(path)


def bad_files(folder):
    np.savez(folder / "other.npz", a=1)
    dirichlet_partition(np.arange(5000) % 10, 8, 1.0, 3).save(folder / "large.npz")
    (folder / "torn.npz").write_bytes((folder / "large.npz").read_bytes()[:400])
    (folder / "file").write_text("")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --method fedopb", "did you mean 'fedobp'"),
        ("run --dataset minst", "did you mean 'mnist'"),
        ("run --model resnet", "did you mean 'resnet18'"),
        ("run --protocol relased", "did you mean 'released'"),
        ("run --alpha 0", "alpha must be greater than 0"),
        ("run --alpha -1", "alpha must be greater than 0"),
        ("run --alpha nan", "alpha must be greater than 0"),
        ("run --alpha inf", "and finite, got inf"),
        ("run --alpha many", "invalid float value"),
        ("run --model resnet18 --batch-size 1", "batch_size must be at least 2"),
        ("run --set quantile=high", "must be of type float"),
        ("run --quantile 1.5", r"[0, 1]"),
        ("run --quantile -0.1", r"[0, 1]"),
        ("run --participation 1.5", "larger than the number of clients"),
        ("run --participation 0", "participation"),
        ("run --clients 500", "fewer clients"),
        ("run --rounds 0", "rounds must be at least 1"),
        ("run --momentum 1", "momentum"),
        ("run --seed -1", "negative"),
        ("run --set quantil=0.5", "did you mean 'quantile'"),
        ("run --set quantile", "NAME=VALUE"),
        ("run --method fedavg --quantile 0.5", "has no setting 'quantile'"),
        ("run --partition {}/missing.npz", "there is no partition file"),
        ("run --partition {}/other.npz", "lacks 'train_indices'"),
        ("run --partition {}/torn.npz", "(not a whole .npz file)"),
        ("run --partition {}/large.npz", "made for another data set"),
        ("run --device cuda:77", "GPU"),
        ("run --device gpu", "not a device"),
        ("run --runs-dir {}/file/runs", "cannot write the run folder"),
        ("run --runs-dir /proc/runs --rounds 1", "cannot write the run folder"),
        ("runs show 0123", "no run"),
        ("data fetch minst", "did you mean 'mnist'"),
        ("reproduce --preset fast", "preset"),
        ("reproduce --only 99", "no notebook '99'"),
        ("reproduce --methods fedag", "did you mean 'fedavg'"),
        ("compare --table 3", "table 3 has no accuracies"),
        ("compare --preset quik", "did you mean 'quick'"),
        ("compare --methods fedag", "did you mean 'fedavg'"),
        ("rnu", "invalid choice"),
        ("run --rouns 3", "unrecognized arguments: --rouns 3 (see `fedobp run --help`)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(tmp_path, capsys, arguments, message):
    bad_files(tmp_path)
    words = arguments.format(tmp_path).split()
    before = sorted(tmp_path.rglob("*"))
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.startswith("fedobp: ") and err.count("\n") == 1 and message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_home_folder_is_meant_wherever_a_path_is_given(tmp_path, monkeypatch, capsys):
    """A shell leaves the tilde in `--option=~/folder`."""
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    dirichlet_partition(np.arange(1797) % 10, 6, 1.0, 3).save(home / "split.npz")
    (home / "grid.toml").write_text(
        'method = "fedavg"\nclients = 6\nrounds = 1\npartition = "~/split.npz"'
    )
    figures = home / "figures" / "smoke"
    figures.mkdir(parents=True)
    (figures / "table.csv").write_text("n\n1\n")
    assert main(["run", *TINY, "--partition=~/split.npz", "--runs-dir=~/runs"]) == 0
    assert main(["runs", "export", "~/some.tar.gz", "--runs-dir=~/runs"]) == 0
    assert main(["runs", "import", "~/some.tar.gz", "--runs-dir=~/others"]) == 0
    assert main(["sweep", "--file=~/grid.toml", "--dry-run"]) == 0
    monkeypatch.setenv("FEDOBP_FIGURES", "~/figures")
    assert not list(here.iterdir())
    monkeypatch.chdir(ROOT)  # where the notebooks are
    assert main(["report", "--preset", "smoke", "--output=~/page.html"]) == 0
    found = {path.name for path in home.iterdir()}
    assert found >= {"runs", "others", "some.tar.gz", "page.html"}
    for path in ("", "~nosuch/runs"):
        with pytest.raises(SystemExit):
            main(["runs", "list", f"--runs-dir={path}"])
        assert capsys.readouterr().err.splitlines()[-1].startswith("fedobp: argument --runs-dir")


@pytest.mark.parametrize("name", ["FEDOBP_RUNS", "FEDOBP_FIGURES", "FEDOBP_DATA"])
def test_a_home_folder_that_is_not_there_is_one_line(name, capsys, monkeypatch):
    monkeypatch.setenv(name, "~nosuch/r")
    command = {"FEDOBP_RUNS": "runs list", "FEDOBP_FIGURES": "report", "FEDOBP_DATA": "data list"}
    assert main(command[name].split()) == 2
    err = capsys.readouterr().err
    assert err == f"fedobp: {name}: there is no home folder for '~nosuch/r'\n"


def test_a_gpu_asked_for_where_none_is(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["run", "--device", "cuda"]) == 2
    assert "no usable GPU" in capsys.readouterr().err
    assert not runs_dir().exists()


def test_a_truncated_data_file_names_the_remedy(capsys, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist.npz").write_bytes(b"PK\x03\x04")
    assert main(["run", "--dataset", "mnist"]) == 2
    assert "fedobp data fetch mnist" in capsys.readouterr().err


def test_module_and_lists(capsys):
    done = subprocess.run(
        [sys.executable, "-m", "fedobp_lib", "methods"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "fedobp" in done.stdout and "quantile" in done.stdout
    assert main(["data", "list"]) == 0 and "embedded" in capsys.readouterr().out
    assert main(["runs", "list"]) == 0 and capsys.readouterr().out == ""
    assert main(["run", *TINY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("files: ") and max(map(len, lines[:-1])) <= 80
    assert main(["runs", "show", lines[-1].removeprefix("files: ")]) == 0
    assert "before local training" in capsys.readouterr().out
    assert main(["runs", "list"]) == 0
    out = capsys.readouterr().out
    assert "done" in out and max(map(len, out.splitlines())) <= 80
    assert main(["runs", "show", out.splitlines()[1].split()[0]]) == 0
    assert "before local training" in capsys.readouterr().out


def test_lists_fit_a_terminal_of_80_columns(capsys):
    for arguments in (["methods"], ["data", "list"]):
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) > 9 and max(map(len, lines)) < 80
    assert lines[0].split() == ["name", "samples", "classes", "size", "here", "note"]


def test_text_is_broken_between_words_but_not_within_those_that_belong_together():
    line = ", ".join(f"mnist{TOGETHER}0.{n}" for n in range(30))
    lines = folded(line, indent=2).splitlines()
    assert max(map(len, lines)) <= WIDTH and all(one.startswith("  mnist") for one in lines[1:])
    assert " ".join(one.strip() for one in lines) == line.replace(TOGETHER, " ")
    rows = [("name", "n", "text"), ("a", "10", "word " * 40), ("long", "9", "")]
    table = aligned(rows, left=(0,))
    assert table[0] == "name   n  text" and table[-1] == "long   9"
    assert max(map(len, table)) <= WIDTH and table[2].startswith(" " * 10 + "word")


def test_a_name_in_other_letters_is_recognized(capsys):
    assert main(["run", "--dataset", "medmnista"]) == 2
    assert "did you mean 'medmnistA'?" in capsys.readouterr().err
