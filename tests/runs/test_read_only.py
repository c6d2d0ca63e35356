"""Folders that cannot be written, on a file system that really is read-only."""

import pytest

from fedobp_lib import RunConfig, run
from fedobp_lib.cli import main
from fedobp_lib.data import download
from fedobp_lib.paths import data_dir, runs_dir
from fedobp_lib.simulation import Simulation

OPTIONS = ["--clients", "6", "--participation", "0.5", "--rounds", "2", "--local-epochs", "1"]
TINY = {"clients": 6, "participation": 0.5, "rounds": 2, "local_epochs": 1}


@pytest.fixture
def home(disks):
    """The folder of runs with one that is finished; nothing in it can be changed."""
    run(RunConfig(**TINY), progress=False)
    return disks.read_only(runs_dir())


@pytest.mark.parametrize(
    "command", ["run --seed 1", "sweep --seed 0 1 2", "sweep --seed 1 2 --workers 2"]
)
def test_nothing_is_computed_for_a_folder_that_cannot_be_written(
    home, monkeypatch, capsys, command
):
    monkeypatch.setattr(Simulation, "step", lambda self: pytest.fail("computed"))
    assert main([*command.split(), "--method", "fedobp", *OPTIONS]) == 2
    told = capsys.readouterr().err
    assert told.startswith("fedobp: cannot write") and told.endswith("Read-only file system\n")
    assert told.count("\n") == 1


def test_what_is_finished_there_can_be_used(home, capsys, tmp_path):
    (name,) = (folder.name for folder in home.iterdir())
    archive = str(tmp_path / "runs.tar.gz")
    for command in (["run"], ["sweep", "--method", "fedobp"]):
        assert main([*command, *OPTIONS]) == 0
    for command in (["list"], ["verify"], ["show", name], ["gc"], ["export", archive]):
        assert main(["runs", *command]) == 0
    assert main(["runs", "export", str(home / "runs.tar.gz")]) == 2
    assert main(["runs", "import", archive, "--runs-dir", str(home / "others")]) == 2
    *_, one, other = capsys.readouterr().err.splitlines()
    assert one.endswith("Read-only file system") and other.endswith("Read-only file system")


def test_nothing_is_downloaded_for_a_folder_that_cannot_be_written(disks, monkeypatch, capsys):
    monkeypatch.setattr(download, "_time_limit", lambda: pytest.fail("downloaded"))
    data_dir().mkdir()
    disks.read_only(data_dir())
    for command in (["data", "fetch", "mnist"], ["run", "--dataset", "mnist"]):
        assert main(command) == 2
        told = capsys.readouterr().err
        assert "mnist.npz: Read-only file system; make room there" in told
        assert told.count("\n") == 1
