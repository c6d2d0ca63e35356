"""A disk that really is full: one clear line, nothing finished is lost, and later it goes on."""

import os
import subprocess
import sys

import pytest

from fedobp_lib import RunConfig, run, sweep
from fedobp_lib.cli import main
from fedobp_lib.paths import runs_dir
from fedobp_lib.runs.files import write
from fedobp_lib.runs.housekeeping import damaged
from fedobp_lib.runs.integrity import FILES
from fedobp_lib.runs.store import folders, is_finished

OPTIONS = ["--clients", "6", "--participation", "0.5", "--rounds", "4", "--local-epochs", "1"]
TINY = {"clients": 6, "participation": 0.5, "rounds": 4, "local_epochs": 1}
ENOUGH = 100_000


class Killed(BaseException):
    pass


@pytest.fixture
def disk(disks, monkeypatch, tmp_path):
    """Where runs are; call it with a size in KiB, again to change the size."""
    monkeypatch.setenv("FEDOBP_CHECKPOINT_SECONDS", "0")
    monkeypatch.setenv("FEDOBP_RUNS", str(tmp_path / "disk" / "runs"))

    def of(kib):
        folder = tmp_path / "disk"
        if folder.exists():
            disks.resize(folder, kib)
        else:
            disks.small(folder, kib)
        return folder

    return of


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The bytes of runs, computed where there is room."""
    home = tmp_path_factory.mktemp("undisturbed")

    def compute(*configs):
        return [numbers(run(config, directory=home).directory) for config in configs]

    return compute


def numbers(folder):
    return b"".join((folder / name).read_bytes() for name in FILES)


def debris(folder):
    return [path for path in folder.rglob("*") if path.name[0] == "."]


# KiB: room for nothing but the lease, for some of the files, for all but summary.json.
@pytest.mark.parametrize("room", [4, 12, 20])
def test_a_run_whose_folder_fills_up(disk, undisturbed, capsys, room):
    place = disk(room)
    assert main(["run", *OPTIONS]) == 2
    *before, last = capsys.readouterr().err.splitlines()
    assert last.startswith("fedobp: cannot write the run folder")
    assert last.endswith("No space left on device")
    # Of four checkpoints that could not be written one is told.
    assert [line.partition(":")[0] for line in before] in (["device"], ["device", "warning"])
    assert not debris(place)
    disk(ENOUGH)
    assert main(["run", *OPTIONS]) == 0
    (folder,) = runs_dir().iterdir()
    assert is_finished(folder) and [numbers(folder)] == undisturbed(RunConfig(**TINY))


def test_the_last_checkpoint_stays_where_there_is_no_room_for_the_next(disk, undisturbed, capsys):
    """A checkpoint of this run has 16 MB, and two must be there for a moment."""
    place = disk(20_000)

    def stop(simulation):
        if simulation.round == 3:
            raise Killed

    with pytest.raises(Killed):
        run(RunConfig(**TINY), on_round=stop, progress=False)
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert [path.name for path in debris(place)] == []
    seen = []
    again = run(RunConfig(**TINY), on_round=lambda s: seen.append(s.round), progress=False)
    assert seen[0] == 1  # round 2's found no room
    assert [numbers(again.directory)] == undisturbed(RunConfig(**TINY))


def test_what_a_kill_left_behind_makes_room_again(disk):
    """The half of a checkpoint; without it the disk has room for one."""
    place = disk(20_000)
    folder = run(RunConfig(**TINY, seed=1), progress=False).directory
    (folder / "summary.json").unlink()
    (folder / ".checkpoint.pt.12345").write_bytes(bytes(10_000_000))
    written = []

    def look(simulation):
        written.extend(place.rglob("checkpoint.pt"))

    run(RunConfig(**TINY, seed=1), on_round=look, progress=False)
    assert written and not debris(place)


def test_in_a_sweep_runs_fail_one_by_one_and_finished_ones_stay(disk, undisturbed, capsys):
    disk(40)
    arguments = ["sweep", "--method", "fedper", "--seed", "0", "1", "2", *OPTIONS]
    assert main(arguments) == 1
    out = capsys.readouterr()
    assert "1 finished, 2 failed" in out.out and "Traceback" not in out.err
    (whole,) = (folder for folder in folders() if is_finished(folder))
    kept = numbers(whole)
    assert not damaged(folders()) and not debris(runs_dir())
    disk(ENOUGH)
    assert main(arguments) == 0
    configs = [RunConfig(**TINY, method="fedper", seed=seed) for seed in range(3)]
    found = [numbers(result.directory) for result in sweep(configs, progress=False).results]
    assert kept in found and found == undisturbed(*configs)
    assert not list(runs_dir().glob("*/error.log"))


def test_an_archive_appears_whole_or_not_at_all(disk, tmp_path, capsys):
    place = disk(ENOUGH)
    run(RunConfig(**TINY, method="fedavg"), progress=False)
    archive = tmp_path / "runs.tar.gz"
    assert main(["runs", "export", str(archive)]) == 0
    disk(64)
    with pytest.raises(OSError), open(place / "filler", "wb", buffering=0) as filler:
        while filler.write(bytes(1024)):
            pass
    capsys.readouterr()
    for command in (["export", str(place / "runs.tar.gz")], ["import", str(archive)]):
        home = place / "others" if command[0] == "import" else runs_dir()
        assert main(["runs", *command, "--runs-dir", str(home)]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "No space left on device" in told
    assert not (place / "runs.tar.gz").exists() and not debris(place)
    assert not [folder for folder in folders(place / "others") if is_finished(folder)]
    disk(ENOUGH)
    assert main(["runs", "import", str(archive), "--runs-dir", str(place / "others")]) == 0
    (here,), (there,) = folders(), folders(place / "others")
    assert numbers(here) == numbers(there) and not damaged([there])


LIMITED = """
import resource, sys
from fedobp_lib.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("largest", "code"), [(500, 2), (100_000, 0)])
def test_a_file_that_may_not_grow(largest, code, undisturbed, monkeypatch):
    """The same by a limit of the system, which needs no mount: for any file, or for checkpoints."""
    monkeypatch.setenv("FEDOBP_CHECKPOINT_SECONDS", "0")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(largest), "run", *OPTIONS],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert "File too large" in done.stderr and not debris(runs_dir())
    assert main(["run", *OPTIONS]) == 0
    (folder,) = runs_dir().iterdir()
    assert [numbers(folder)] == undisturbed(RunConfig(**TINY))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_no_room_where_standard_output_goes():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fedobp_lib", "methods"],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "fedobp: No space left on device\n")


def test_what_is_no_plain_file_is_written_into_and_not_replaced(tmp_path):
    target, link, pipe = (tmp_path / name for name in ("target", "link", "pipe"))
    link.symlink_to(target)
    write(link, lambda file: file.write(b"whole"))
    assert link.is_symlink() and target.read_bytes() == b"whole"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(pipe, lambda file: file.write(b"whole"))
    assert os.read(reader, 10) == b"whole" and pipe.is_fifo()
    os.close(reader)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "pipe", "target"]
