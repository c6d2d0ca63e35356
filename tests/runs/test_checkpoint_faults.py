"""A checkpoint that is not what was written: told, nothing of it is used, the run begins anew."""

import copy

import pytest
import torch

from fedobp_lib import RunConfig, run
from fedobp_lib.data.datasets import load
from fedobp_lib.methods import METHODS
from fedobp_lib.runs.checkpoints import Checkpoint
from fedobp_lib.simulation import simulate

TINY = {"clients": 18, "participation": 0.17, "rounds": 3, "local_epochs": 1, "eval_every": 2}
PLAIN = ("round", "history", "layers", "seconds", "method")


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The checkpoint after round 2 of a run, and the bytes of the undisturbed one."""

    def stop(simulation):
        if simulation.round == 3:
            raise Killed

    home = tmp_path_factory.mktemp("runs")
    with pytest.raises(Killed):
        run(RunConfig(**TINY), directory=home, on_round=stop, checkpoint_seconds=0)
    (path,) = home.glob("*/checkpoint.pt")
    return path, numbers(run(RunConfig(**TINY), directory=home / "whole"))


def numbers(result):
    names = ("history.csv", "layers.csv", "clients.csv")
    return b"".join((result.directory / name).read_bytes() for name in names)


def faults(state):
    """By name, changes of a state, each of which makes it useless."""
    found = {f"no {key}": lambda s, key=key: s.pop(key) for key in PLAIN}
    for key in ("history", "layers"):
        found[f"no row of {key}"] = lambda s, key=key: s[key].clear()
        found[f"a cell of {key}"] = lambda s, key=key: s[key][0].pop()
    for key in state["seconds"]:
        found[f"no seconds of {key}"] = lambda s, key=key: s["seconds"].pop(key)
        found[f"text as seconds of {key}"] = lambda s, key=key: s["seconds"].update({key: "1"})
    for round_ in (0, 3, -1, "2", None, torch.tensor(2)):
        found[f"round {round_!r}"] = lambda s, value=round_: s.update(round=value)
    found["one more tensor"] = lambda s: s["method"].update(more=torch.zeros(3))
    for key, part in state["method"].items():
        found[f"no {key}"] = lambda s, key=key: s["method"].pop(key)
        found[f"nothing of {key}"] = lambda s, key=key: s["method"].update({key: None})
        if isinstance(part, dict):
            found |= faults_of_rows(key, part)
            continue
        tensor = part
        other = torch.float64 if tensor.dtype != torch.float64 else torch.float32
        for what, value in {
            "shape": tensor.new_zeros((*tensor.shape, 2)),
            "dtype": tensor.to(other),
        }.items():
            found[f"{what} of {key}"] = lambda s, k=key, v=value: s["method"].update({k: v})
    return found


def faults_of_rows(key, part):
    """Of a part that holds the rows of some clients alone."""

    def change(name, new):
        return lambda s: s["method"][key].update({name: new(s["method"][key][name])})

    if not part["rows"]:  # as no client's has changed yet
        return {f"no {name} of {key}": lambda s, n=name: s["method"][key].pop(n) for name in part}
    return {
        f"no clients of {key}": lambda s: s["method"][key].pop("clients"),
        f"no rows of {key}": lambda s: s["method"][key].pop("rows"),
        f"a row less of {key}": change("rows", lambda rows: rows[:-1]),
        f"shape of {key}": change("rows", lambda rows: [*rows[:-1], rows[-1][:-1]]),
        f"dtype of {key}": change("rows", lambda rows: [*rows[:-1], rows[-1].double()]),
        f"a number as row of {key}": change("rows", lambda rows: [*rows[:-1], 1.0]),
        f"a client that is not there of {key}": change("clients", lambda c: c + 3),
        f"a client twice of {key}": change("clients", lambda c: c * 0),
        f"halves of clients of {key}": change("clients", lambda c: c.double()),
    }


@pytest.mark.parametrize(
    "fault",
    ["no round", "no history", "no layers", "no seconds", "no method", "no local", "no global",
     "shape of local", "dtype of local", "shape of global", "dtype of global"],
)  # fmt: skip
def test_the_run_is_as_one_from_scratch(fault, stopped, tmp_path, capsys):
    path, whole = stopped
    state = torch.load(path, weights_only=True)
    faults(state)[fault](state)
    folder = tmp_path / "runs" / path.parent.name
    folder.mkdir(parents=True)
    torch.save(state, folder / path.name)
    assert numbers(run(RunConfig(**TINY))) == whole
    assert "starting over" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_of_any_fault_nothing_is_taken_and_of_none_everything(method, tmp_path, capsys):
    """Every key of every method's state."""
    config, data = RunConfig(**TINY, method=method), load("digits")
    simulation, fresh = simulate(config, data), simulate(config, data)
    simulation.step()
    state = copy.deepcopy(simulation.state())
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", seconds=0)
    before = copy.deepcopy(fresh.state())
    for name, spoil in faults(state).items():
        spoiled = copy.deepcopy(state)
        spoil(spoiled)
        torch.save(spoiled, checkpoint.path)
        checkpoint.restore(fresh)
        assert capsys.readouterr().err.count("starting over\n") == 1, name
        assert same(fresh.state(), before), name
    torch.save(state, checkpoint.path)
    checkpoint.restore(fresh)
    assert capsys.readouterr().err == "" and same(fresh.state(), state)


def same(one, two):
    tensors = [tensors_of(state["method"]) for state in (one, two)]
    return {**one, "method": 0} == {**two, "method": 0} and all(
        torch.equal(*both) for both in zip(*tensors, strict=True)
    )


def tensors_of(method):
    parts = [part if isinstance(part, dict) else {"rows": [part]} for part in method.values()]
    return [t for part in parts for t in (part.get("clients"), *part["rows"]) if t is not None]


def test_a_changed_bit_anywhere_is_found_or_changes_nothing(stopped, tmp_path, capsys):
    """Of the file's ends, where its tables are, every bit counts; of the rest one in many."""
    path, _ = stopped
    content = path.read_bytes()
    wanted, config = torch.load(path, weights_only=True), RunConfig(**TINY)
    data, checkpoint = load("digits"), Checkpoint(tmp_path / "checkpoint.pt")
    places = {*range(0, 2000, 7), *range(len(content) - 2000, len(content), 7)}
    places |= set(range(0, len(content), len(content) // 25))
    taken, simulation = 0, simulate(config, data)
    for place in sorted(places):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        checkpoint.path.write_bytes(changed)
        checkpoint.restore(simulation)
        if "starting over" not in capsys.readouterr().err:
            taken += 1
            assert same(simulation.state(), wanted), place
            simulation = simulate(config, data)
    assert taken < len(places) / 2  # what nobody reads: padding, times
