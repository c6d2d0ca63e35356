"""A run whose numbers grow beyond all bounds stops, says where, and is not taken for a result."""

import json

import numpy as np
import pytest

from fedobp_lib import RunConfig, run, run_all
from fedobp_lib.cli import main
from fedobp_lib.methods.base import Method
from fedobp_lib.results.compare import compare_accuracy
from fedobp_lib.results.tables import accuracy_table, readable
from fedobp_lib.runs.store import list_runs
from fedobp_lib.simulation import Simulation

TINY = {"clients": 5, "participation": 0.4, "rounds": 3, "local_epochs": 1}


@pytest.mark.parametrize("backend", ["loop", "batched"])
@pytest.mark.parametrize(("method", "lr"), [("fedobp", 1e20), ("floco", 3.0), ("pfedfda", 1000.0)])
def test_it_stops_in_its_round_and_names_the_client(method, lr, backend):
    result = run(RunConfig(**TINY, method=method, lr=lr), backend=backend)
    stop = result.diverged
    assert stop["round"] == 1
    assert stop["client"] is None or 0 <= stop["client"] < 5
    assert np.isnan(result.accuracy())
    assert list_runs()["state"].tolist() == ["diverged"]


def test_what_was_measured_before_is_kept(monkeypatch):
    train, method = [], Method.train

    def spoiled(self, start, clients, *args):
        trained = method(self, start, clients, *args)
        train.append(clients.tolist())
        if len(train) == 2:
            trained[1, 5] = float("inf")
        return trained

    monkeypatch.setattr(Method, "train", spoiled)
    result = run(RunConfig(**TINY, method="fedavg"))
    assert result.diverged["round"] == 2 and result.diverged["client"] == train[1][1]
    assert set(result.history["round"]) == {1}


def test_a_loss_that_is_no_number_stops_it(monkeypatch):
    test = Simulation._test

    def spoiled(self, rows, clients):
        if self.round == 2:
            rows = rows * 1e30
        return test(self, rows, clients)

    monkeypatch.setattr(Simulation, "_test", spoiled)
    assert run(RunConfig(**TINY)).diverged["what"] == "the loss is not finite"


def test_good_runs_beside_it_go_on_and_tables_say_so(capsys):
    good = [RunConfig(**TINY, seed=seed) for seed in (0, 1)]
    results = run_all([good[0], RunConfig(**TINY, lr=1e20, seed=2), good[1]], progress=False)
    assert [bool(result.diverged) for result in results] == [False, True, False]
    table = accuracy_table(results)
    row = table[table["method"] == "fedobp"].iloc[0]
    assert row["seeds"] == 2 and row["diverged"] == 1
    assert row["mean"] == pytest.approx(np.mean([r.accuracy(which="best") for r in results[::2]]))
    assert "1 diverged" in readable(table).loc["FedOBP"].iloc[0]
    assert readable(accuracy_table(results[1:2])).loc["FedOBP"].iloc[0] == "diverged"
    cell = compare_accuracy(results).query("dataset == 'digits' and method == 'fedobp'").iloc[0]
    assert cell["verdict"] == "diverged" and cell["seeds"] == 2


def test_the_command_says_so_and_fails(capsys):
    options = "--clients 5 --participation 0.4 --rounds 2 --local-epochs 1 --lr 1e20"
    arguments = ["run", *options.split()]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "diverged in round 1, client" in out and "%" not in out
    assert main([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["diverged"]["round"] == 1
