"""Banks against a dense tensor, with checkpoints and kills at any write."""

import io
import subprocess
import sys
import tempfile
from io import FileIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedobp_lib.errors import UserError
from fedobp_lib.methods import disk_bank
from fedobp_lib.methods.banks import HostBank
from fedobp_lib.methods.disk_bank import DiskBank
from fedobp_lib.methods.kept_rows import check, first_row, keep, put_back

CLIENTS, WIDTH = 7, 1100
CPU = torch.device("cpu")


class Killed(BaseException):
    pass


class KilledWhileWriting(FileIO):
    """A file whose process is killed after so many writes, in the middle of one."""

    left = -1

    def write(self, data):
        cls = KilledWhileWriting
        cls.left -= 1
        if cls.left == 0:
            super().write(data[: len(data) // 2])
            raise Killed
        return super().write(data)


def first_of(kind):
    """What clients begin with: one row for all, or one for each, as numbers or flags."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(CLIENTS, WIDTH, generator=generator)
    rows[0, :2] = torch.tensor([0.0, float("nan")])
    rows = {"flags": rows > 0, "double": rows.double()}.get(kind, rows)
    return rows if kind == "each" else rows[:1].repeat(CLIENTS, 1)


def make(place, kind, folder):
    rows = first_of(kind)
    if place == "device":
        return rows.clone()
    initial = (lambda client: rows[client]) if kind == "each" else rows[0]
    if place == "host":
        return HostBank(CLIENTS, initial, CPU)
    return DiskBank(CLIENTS, initial, CPU, folder / "bank-1.rows")


def drawn(kind, seed, count):
    rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    rows[:, 0] = -0.0  # equal to 0, but other bits
    return rows > 0 if kind == "flags" else rows.to(first_of(kind).dtype)


def same(one, other):
    """Bit by bit: -0 is not 0."""
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def saved(kept):
    """Through a file, as nothing but numbers."""
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


CLIENTS_OF_IT = st.lists(st.integers(0, CLIENTS - 1), unique=True, min_size=1, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), CLIENTS_OF_IT, st.integers(0, 99)),
        st.tuples(st.just("killed"), CLIENTS_OF_IT, st.integers(1, 4)),
        st.tuples(st.just("checkpoint"), st.sampled_from(["kept", "failed", "unsaid", "late"])),
    ),
    min_size=5,
    max_size=30,
)


@pytest.mark.parametrize("place", ["device", "host", "disk"])
@settings(max_examples=400)
@given(kind=st.sampled_from(["one", "each", "flags", "double"]), steps=STEPS)
def test_reads_writes_checkpoints_and_kills(place, kind, steps):
    """A bank is what a dense tensor is; after a kill it is what it was at the last checkpoint."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_bank, "FileIO", KilledWhileWriting)
        folder = Path(folder)
        dense = last = first_of(kind)
        bank, kept = make(place, kind, folder), None
        first = first_row(bank, CLIENTS)
        for step, *more in steps:
            KilledWhileWriting.left = more[1] if step == "killed" else -1
            if step == "checkpoint":
                now = saved(keep(bank, first))
                if more[0] != "failed":  # the new checkpoint has taken the old one's place
                    kept, last = now, dense.clone()
                if more[0] == "late":  # whoever tells the bank may have written since
                    dense = dense.clone()
                    bank[torch.arange(2)] = dense[:2] = drawn(kind, 100, 2)
                if more[0] in ("kept", "late") and place != "device":
                    bank.commit()
                continue
            numbers, seed = torch.tensor(more[0]), more[1]
            rows = drawn(kind, seed, len(numbers))
            try:
                bank[numbers] = rows
                dense = dense.clone()
                dense[numbers] = rows
            except Killed:
                pass
            if step == "killed":
                bank, dense = make(place, kind, folder), last
                if kept is not None:
                    check(kept, bank, folder)
                    put_back(kept, bank, first, folder)
            assert same(bank[torch.arange(CLIENTS)], dense)
            assert same(bank[numbers], dense[numbers]) and same(bank[2], dense[2])


@pytest.mark.parametrize("to", ["device", "host", "disk"])
@pytest.mark.parametrize("of", ["device", "host", "disk"])
@pytest.mark.parametrize("kind", ["one", "each", "flags"])
@pytest.mark.parametrize("count", [0, 2, 6])
def test_what_one_place_keeps_goes_into_any_other(tmp_path, of, to, kind, count):
    bank, other = make(of, kind, tmp_path), make(to, kind, tmp_path)
    numbers = torch.arange(count)
    first = first_row(bank, CLIENTS)
    bank[numbers] = drawn(kind, 1, count)
    kept = saved(keep(bank, first))
    check(kept, other, tmp_path)
    put_back(kept, other, first_row(other, CLIENTS), tmp_path)
    assert same(other[torch.arange(CLIENTS)], bank[torch.arange(CLIENTS)])


def test_what_is_kept_grows_with_who_took_part(tmp_path):
    for place in ("device", "host", "disk"):
        bank = make(place, "one", tmp_path)
        first = first_row(bank, CLIENTS)
        sizes = []
        for count in (0, 1, 3):
            bank[torch.arange(count)] = drawn("one", 1, count)
            file = io.BytesIO()
            torch.save(keep(bank, first), file)
            sizes.append(file.tell())
        grown = [(size - sizes[0]) / (4 * WIDTH) for size in sizes]
        wanted = [0, 0, 0] if place == "disk" else [0, 1, 3]
        assert grown == pytest.approx(wanted, abs=0.5)


def test_slots_come_back_into_use(tmp_path):
    """However often a cohort writes: its slots, and those that the last checkpoint refers to."""
    bank = make("disk", "one", tmp_path)
    for turn in range(20):
        for _ in range(3):
            bank[torch.tensor([turn % 7, (turn + 1) % 7])] = drawn("one", turn, 2)
        keep(bank, None)
        bank.commit()
    assert bank.path.stat().st_size <= (CLIENTS + 2) * 4 * WIDTH


@pytest.mark.parametrize("fault", ["flipped", "cut", "gone", "swapped"])
def test_a_damaged_file_is_noticed(tmp_path, fault):
    bank = make("disk", "one", tmp_path)
    bank[torch.arange(3)] = drawn("one", 1, 3)
    kept, content = saved(keep(bank, None)), bytearray(bank.path.read_bytes())
    size = 4 * WIDTH
    if fault == "flipped":
        content[size + 77] ^= 1
    elif fault == "cut":
        content = content[:-1]
    elif fault == "swapped":
        content = content[size : 2 * size] + content[:size] + content[2 * size :]
    bank.path.write_bytes(content)
    if fault == "gone":
        bank.path.unlink()
    else:
        with pytest.raises(UserError, match=r"row \d is damaged"):
            bank[torch.arange(3)]
    with pytest.raises((UserError, OSError)):
        check(kept, make("disk", "one", tmp_path), tmp_path)


def test_a_table_of_another_bank_is_refused(tmp_path):
    bank = make("disk", "one", tmp_path)
    bank[torch.arange(3)] = drawn("one", 1, 3)
    kept = keep(bank, None)
    for change in (
        {"slots": kept["slots"][:-1]},
        {"slots": kept["slots"] * 0},
        {"slots": kept["slots"] - 5},
        {"checksums": kept["checksums"][:-1]},
    ):
        with pytest.raises(ValueError):
            check(kept | change, bank, tmp_path)
    with pytest.raises(ValueError, match="other clients"):
        check({"clients": torch.tensor([9]), "rows": [torch.zeros(WIDTH)]}, bank, tmp_path)
    with pytest.raises(ValueError, match="another size"):
        check({"clients": torch.tensor([1]), "rows": [torch.zeros(WIDTH - 1)]}, bank, tmp_path)
    with pytest.raises(ValueError, match="shape"):
        bank[torch.arange(3)] = torch.zeros(2, WIDTH)


def test_rows_on_disk_are_not_in_memory(tmp_path):
    """400 MB pass through a process that has no more than before."""
    code = f"""
import resource, torch
from pathlib import Path
from fedobp_lib.methods.disk_bank import DiskBank
bank = DiskBank(1000, torch.zeros(500_000), torch.device("cpu"), Path({str(tmp_path)!r}) / "rows")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bank[torch.arange(5)] = torch.ones(5, 500_000)
before = peak()
for first in range(0, 200, 5):
    bank[torch.arange(first, first + 5)] = torch.full((5, 500_000), float(first))
    rows = bank[torch.arange(first, first + 5)]
    assert rows.min() == rows.max() == first
assert not bank[900].any()
print((peak() - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60
    assert (tmp_path / "rows").stat().st_size == 200 * 2_000_000
