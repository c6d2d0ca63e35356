"""Runs whose clients' rows are on the device, in main memory or on disk: the same numbers."""

import subprocess
import sys
from collections import Counter

import pytest
import torch
from helpers.literal import tiny_images

from fedobp_lib import RunConfig, UserError, run, run_all
from fedobp_lib.cli import main
from fedobp_lib.methods import METHODS, BankPlace
from fedobp_lib.methods.disk_bank import DiskBank
from fedobp_lib.paths import runs_dir
from fedobp_lib.runs import bank_choice, housekeeping
from fedobp_lib.runs.bank_choice import bank_bytes, choose_bank
from fedobp_lib.runs.checkpoints import Checkpoint
from fedobp_lib.runs.store import run_id
from fedobp_lib.simulation import simulate

TINY = {"clients": 6, "participation": 0.5, "rounds": 4, "local_epochs": 1, "eval_every": 2}
SMALL = TINY | {"min_samples": 4, "batch_size": 8}
GPU = torch.device("cuda")

# Methods as they are, and with settings that keep more rows.
KINDS = {name: (name, {}) for name in METHODS} | {
    "fedobp, gradient and average": ("fedobp", {"score": "gradient", "ema": 0.5}),
    "fedala, everyone": ("fedala", {"everyone": True, "layers": 2}),
    "fedspa, own masks": ("fedspa", {"same_masks": False}),
    "fedspa, same masks": ("fedspa", {"same_masks": True}),
    "flute, benchmark": ("flute", {"benchmark": True}),
}


def made(config, kind, folder):
    folder.mkdir(exist_ok=True)
    return simulate(config, tiny_images(), place=BankPlace(kind, folder))


def state_of(simulation):
    """Every row of every client."""
    everyone = torch.arange(simulation.data.clients)
    kept = simulation.method.state.items()
    return {n: v if isinstance(v, torch.Tensor) else v[everyone] for n, v in kept}


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_moved_from_place_to_place_in_each_round(tmp_path, kind):
    method, settings = KINDS[kind]
    config = RunConfig(**SMALL, method=method, settings=settings)
    whole = simulate(config, tiny_images())
    whole.run(progress=False)
    places, path = ["disk", "host", "disk", "device"], tmp_path / "checkpoint.pt"
    for number, place in enumerate(places, 1):
        ours = made(config, place, tmp_path)
        Checkpoint(path, seconds=0).restore(ours)
        assert ours.round == number - 1
        ours.step()
        assert Checkpoint(path, seconds=0).save(ours)
    assert ours.history == whole.history and ours.layers == whole.layers
    wanted = state_of(whole)
    assert all(torch.equal(value, wanted[name]) for name, value in state_of(ours).items())


@pytest.mark.parametrize("method", ["fedobp", "fedselect"])
def test_a_whole_run_on_disk(tmp_path, method):
    config = RunConfig(**SMALL | {"rounds": 7}, method=method)
    whole, ours = simulate(config, tiny_images()), made(config, "disk", tmp_path)
    for simulation in (whole, ours):
        simulation.run(progress=False)
    assert ours.history == whole.history


def test_methods_have_no_rows_on_the_device(tmp_path):
    """What stays there does not grow with the clients, but for a few numbers each."""
    for method, settings in KINDS.values():
        sizes = []
        for clients in (3, 13):
            config = RunConfig(
                clients=clients, participation=1 / clients, min_samples=2, rounds=9,
                method=method, settings=settings,
            )  # fmt: skip
            state = made(config, "host", tmp_path).method.state
            sizes.append(sum(value.nbytes for value in state.values()))
        assert sizes[1] - sizes[0] <= 10 * 100, method


def numbers(result):
    return b"".join((result.directory / f"{n}.csv").read_bytes() for n in ("history", "layers"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(RunConfig(**TINY), directory=tmp_path_factory.mktemp("undisturbed"))


KILLED = """
import os, signal, sys, torch
from io import FileIO
from fedobp_lib import RunConfig, run
from fedobp_lib.methods import disk_bank

class Killed(FileIO):
    left = int(sys.argv[1])

    def write(self, data):
        Killed.left -= 1
        if Killed.left == 0:
            super().write(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(data)

disk_bank.FileIO = Killed
torch.set_num_threads(2)
run(RunConfig(**%r), bank="disk", checkpoint_seconds=0)
"""


def test_killed_in_the_middle_of_a_write(undisturbed):
    """Twice: in the first process's second round, in the second one's as well."""
    for writes in (5, 4):
        done = subprocess.run([sys.executable, "-c", KILLED % TINY, str(writes)])
        assert done.returncode == -9
    seen = []
    ours = run(RunConfig(**TINY), bank="disk", on_round=lambda s: seen.append(s.round))
    assert seen[0] == 2 and numbers(ours) == numbers(undisturbed)
    assert sorted(p.name for p in ours.directory.iterdir() if p.name[0] != ".") == [
        "clients.csv", "config.json", "history.csv", "layers.csv", "summary.json",
    ]  # fmt: skip
    assert ours.summary["provenance"]["bank"] == "disk"


class Killed(BaseException):
    pass


def killed_after(rounds, bank):
    """The folder of a run that was killed when the checkpoint of so many rounds was there."""

    def stop(simulation):
        if simulation.round == rounds + 1:
            raise Killed

    with pytest.raises(Killed):
        run(RunConfig(**TINY), bank=bank, on_round=stop, checkpoint_seconds=0)
    (folder,) = runs_dir().iterdir()
    return folder


def test_continued_in_another_place(undisturbed):
    for first, second in (("disk", "auto"), ("device", "disk")):
        folder = killed_after(2, first)
        seen = []
        ours = run(RunConfig(**TINY), bank=second, on_round=lambda s, to=seen: to.append(s.round))
        assert seen[0] == 2 and numbers(ours) == numbers(undisturbed)
        housekeeping.remove([folder])


def test_a_flipped_byte_is_told_and_the_run_starts_over(undisturbed, capsys):
    folder = killed_after(2, "disk")
    content = bytearray((folder / "bank-1.rows").read_bytes())
    # Of every client's row a byte, as some rows are of the round that is lost.
    row = undisturbed.summary["parameters"] * 4
    for begin in range(0, len(content), row):
        content[begin + row // 2] ^= 1
    (folder / "bank-1.rows").write_bytes(content)
    seen = []
    ours = run(RunConfig(**TINY), bank="disk", on_round=lambda s: seen.append(s.round))
    assert "is damaged; starting over" in capsys.readouterr().err
    assert seen[0] == 1 and numbers(ours) == numbers(undisturbed)


def test_a_row_that_changes_under_a_run_stops_it(undisturbed):
    def damage(simulation):
        if simulation.round == 3:
            path = simulation.method.state["local"].path
            path.write_bytes(bytes(path.stat().st_size))

    with pytest.raises(UserError, match="is damaged"):
        run(RunConfig(**TINY), bank="disk", on_round=damage)
    assert numbers(run(RunConfig(**TINY), bank="disk")) == numbers(undisturbed)


def test_a_full_disk_stops_a_run_in_one_line(monkeypatch, capsys):
    class Full:
        def __init__(self, *_):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedobp_lib.methods.disk_bank.FileIO", Full)
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    assert main(["run", *arguments, "--bank", "disk"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("fedobp: cannot write ") and last.endswith("No space left on device")


def test_files_and_checkpoints_grow_with_who_took_part(tmp_path):
    config = RunConfig(
        clients=30, participation=1 / 15, alpha=10.0, min_samples=2, rounds=5, local_epochs=1,
        eval_after="never", method="fedobp",
    )  # fmt: skip
    row = 4 * simulate(config, tiny_images()).layout.size
    for place in ("device", "host", "disk"):
        folder = tmp_path / place
        ours = made(config, place, folder)
        checkpoint = Checkpoint(folder / "checkpoint.pt", seconds=0)
        for _ in range(3):
            ours.step()
            checkpoint.save(ours)
            ours.commit_state()
        # Three cohorts of two, and the server's model; a spare slot for each of a cohort.
        size = sum(file.stat().st_size for file in folder.iterdir())
        assert 2 * row < size < (6 + 1 + 2.5) * row
        if place == "disk":
            assert checkpoint.path.stat().st_size < 1.5 * row
            assert (folder / "bank-1.rows").stat().st_blocks * 512 < 8.5 * row


def test_the_place_is_chosen_by_size(monkeypatch):
    config = RunConfig(method="fedobp", clients=1000, settings={"score": "gradient"})
    row = 4 * simulate(RunConfig(clients=4), bank_choice.load_data("digits")).layout.size
    size = bank_bytes(config.resolved())
    assert size == 2 * 1000 * row
    free = Counter(gpu=0, memory=0)
    monkeypatch.setattr(bank_choice, "free_memory", lambda: free["memory"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["gpu"], 0))
    cpu = torch.device("cpu")
    for times, on_cpu in ((0, "disk"), (3.9, "disk"), (4.1, "device")):
        free["memory"] = int(times * size)
        assert choose_bank("auto", config, cpu) == on_cpu
        assert choose_bank("auto", config, GPU) == {"disk": "disk", "device": "host"}[on_cpu]
    assert choose_bank("auto", config, cpu, processes=2) == "disk"
    for times, runs, on_gpu in ((1.9, 1, "host"), (2.1, 2, "device"), (1.9, 2, "disk")):
        free["gpu"] = int(times * size)
        assert choose_bank("auto", config, GPU, runs) == on_gpu
    assert choose_bank("host", config, cpu) == "host"
    free["memory"] = 0
    assert choose_bank("auto", RunConfig(method="fedavg", clients=10**6), cpu) == "device"


def test_what_is_free_is_what_a_container_leaves():
    assert 0 < bank_choice.free_memory() <= 2**50


def test_the_place_is_told_in_one_line_and_no_part_of_the_id(capsys):
    config = RunConfig(**TINY | {"rounds": 1})
    ours = run(config, bank="disk")
    told = capsys.readouterr().err
    assert told.count("rows of 6 clients, up to 14.0 MB a run, are kept on disk\n") == 1
    assert all(len(line) < 80 for line in told.splitlines())
    assert ours.run_id == run_id(config.resolved(), bank_choice.load_data("digits"))
    assert run(config, bank="device").summary == ours.summary  # not computed again
    run(RunConfig(**TINY | {"rounds": 1, "seed": 1}), bank="device")
    assert "rows of" not in capsys.readouterr().err


def test_a_sweep_in_other_processes_takes_the_place_along(monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    configs = [RunConfig(**TINY | {"rounds": 1, "seed": seed}) for seed in (0, 1)]
    results = run_all(configs, workers=2, bank="host", progress=False)
    assert [r.summary["provenance"]["bank"] for r in results] == ["host", "host"]
    assert "are kept in main memory" in capsys.readouterr().err


def test_an_unknown_place_is_refused(capsys):
    for command in (["run"], ["sweep", "--seed", "0"], ["reproduce", "--preset", "smoke"]):
        assert main([*command, "--bank", "dsik"]) == 2
        line = "fedobp: unknown bank 'dsik'; did you mean 'disk'?"
        assert capsys.readouterr().err.splitlines()[-1] == line


def test_gc_knows_the_files(undisturbed):
    ours = run(RunConfig(**TINY))
    left = ours.directory / "bank-1.rows"
    left.write_bytes(b"x")
    assert housekeeping.rubbish() == [left]


def test_a_checkpoint_that_is_not_written_frees_no_slot(undisturbed, monkeypatch):
    """Its disk is full from the second one on; then the process is killed."""
    count, real = [0], torch.save

    def save(*arguments):
        count[0] += 1
        if count[0] > 1:
            raise OSError(28, "No space left on device")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        killed_after(3, "disk")
    seen = []
    ours = run(RunConfig(**TINY), bank="disk", on_round=lambda s: seen.append(s.round))
    assert count[0] == 3 and seen[0] == 1 and numbers(ours) == numbers(undisturbed)


def test_rows_that_cannot_be_read_to_the_end_stop_the_run(undisturbed, monkeypatch, capsys):
    """They were whole when they were checked; going on with half of them would be wrong."""
    killed_after(2, "disk")
    reads, real = [], DiskBank._read_slot

    def read(bank, slot, out):
        reads.append(slot)
        if len(reads) - len(set(reads)) == 2:  # all are checked, and one is there already
            raise OSError(5, "Input/output error")
        return real(bank, slot, out)

    told = pytest.raises(UserError, match=r"to its end.*Input/output")
    with monkeypatch.context() as patch, told:
        patch.setattr(DiskBank, "_read_slot", read)
        run(RunConfig(**TINY), bank="host")
    seen = []
    ours = run(RunConfig(**TINY), bank="host", on_round=lambda s: seen.append(s.round))
    assert seen[0] == 2 and numbers(ours) == numbers(undisturbed)
