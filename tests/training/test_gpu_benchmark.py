"""`benchmarks/gpu.py` without a GPU: that it works, and that no fault stops what comes after it."""

import csv
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from helpers import ROOT

from fedobp_lib.methods import METHODS
from fedobp_lib.training.batched import BatchedBackend

FILE = ROOT / "benchmarks" / "gpu.py"
CPU = torch.device("cpu")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FILE.parent))
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(folder, part):
    with (folder / f"{part}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_works_without_a_gpu(tmp_path):
    done = subprocess.run(
        [sys.executable, FILE, "--device", "cpu", "--tiny", "--out", tmp_path],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    tables = {
        part: table(tmp_path, part)
        for part in ("correctness", "graphs", "precision", "speed", "resnet18")
    }
    assert not [row for rows in tables.values() for row in rows if row["fault"]]
    checked = [(row["model"], row["method"]) for row in tables["correctness"]]
    assert checked[: len(METHODS)] == [("avgcnn", method) for method in METHODS]
    assert ("resnet18", "apfl") in checked
    assert {row["verdict"] for row in tables["correctness"]} == {"agrees"}
    for part in ("speed", "resnet18"):
        assert {row["pack"] for row in tables[part]} == {"1", "2"}
    for row in (row for rows in tables.values() for row in rows):
        assert row["device"] and row["torch"] == torch.__version__ and row["date"]
    assert "left)" in done.stderr and "speed: 3 rows, 0 with a fault" in done.stderr


def test_a_wrong_back_end_differs(benchmark, monkeypatch):
    """As much as a forgotten client would change; and numbers that are none."""
    parts = sys.modules["gpu_parts"]
    [(_, ask), *_] = parts.correctness(CPU, parts.Scale.of(True))
    assert ask()["verdict"] == "agrees"
    fit = BatchedBackend.fit
    for wrong in (1.01, float("nan")):
        monkeypatch.setattr(
            BatchedBackend, "fit", lambda *a, by=wrong: [rows * by for rows in fit(*a)]
        )
        assert ask()["verdict"] == "differs"


def test_a_case_that_fails_is_a_row_and_the_next_one_is_asked(benchmark, monkeypatch, tmp_path):
    def fails():
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore of it.")

    def cases(device, scale):
        yield {"method": "fedobp", "precision": "fp32"}, fails
        yield {"method": "fedobp", "precision": "bf16"}, lambda: {"rounds": 3}

    monkeypatch.setitem(
        benchmark.PARTS,
        "graphs",
        sys.modules["gpu_parts"].Part(60, ("method", "precision", "rounds"), cases),
    )
    (tmp_path / "graphs.csv").write_text("method,precision,rounds,fault\n")
    benchmark.measure("graphs", CPU, True, tmp_path, ends=0)
    first, second = table(tmp_path, "graphs")
    assert first["fault"] == "OutOfMemoryError: CUDA out of memory." and first["rounds"] == ""
    assert (second["precision"], second["rounds"], second["fault"]) == ("bf16", "3", "")
    assert benchmark.summary(["graphs"], tmp_path) == 1


@pytest.mark.parametrize(
    ("code", "seconds", "fault"),
    [
        ("import os; os.abort()", 60, "ended with code"),
        ("import time; time.sleep(60)", 2, "not done in"),
    ],
)
def test_a_part_that_dies_or_hangs_is_a_row(benchmark, tmp_path, code, seconds, fault):
    benchmark.run_part("graphs", [sys.executable, "-c", code], tmp_path, CPU, seconds=seconds)
    [row] = table(tmp_path, "graphs")
    assert fault in row["fault"] and row["device"]
    assert benchmark.summary(["graphs"], tmp_path) == 1


def test_packed_runs_stop_after_the_same_round(benchmark, monkeypatch):
    """Else the last rounds would be timed with fewer runs than the pack has."""
    parts = sys.modules["gpu_parts"]
    rounds = {}

    def step(simulation, real=parts.Simulation.step):
        real(simulation)
        rounds[simulation.config.seed] = simulation.round

    monkeypatch.setattr(parts.Simulation, "step", step)
    scale = parts.Scale.of(True)
    config = scale.config("cifar10", method="fedavg")
    row = parts.packed(config, 3, parts.patterns("stand-in", 200, (16, 16, 3)), CPU, scale)
    assert set(rounds) == {0, 1, 2} and set(rounds.values()) == {scale.warm + row["rounds"]}
