"""Server and clients without processes: messages go as bytes, but nothing carries them away."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.direct_link import CLIENTS, Direct, clients_of, server_of, tiny_config

from fedobp_lib import UserError, run
from fedobp_lib.data.clients import sample_cohort
from fedobp_lib.data.datasets import load
from fedobp_lib.errors import FederationFailed
from fedobp_lib.federate.launch import check_method
from fedobp_lib.federate.link import Fault
from fedobp_lib.methods import METHODS, Method
from fedobp_lib.runs.checkpoints import Checkpoint

SPLIT = [name for name, method in METHODS.items() if method.finish is Method.finish]
VARIANTS = [
    {"scoring": "server", "quantile": 0.9},
    {"scoring": "server", "downlink": "sparse", "quantile": 0.9},
    {"scoring": "server", "downlink": "sparse", "score": "gradient", "ema": 0.5, "quantile": 0.9},
    {"score": "fisher", "ema": 0.5, "quantile": 0.9},
    {"select": "held_out", "score": "taylor"},
    {"select": "knee", "merge": "soft"},
    {"score": "random", "quantile": 0.9, "scoring": "server"},
]


def same(rounds, result, most=0.0):
    """Whether a federation has the numbers of a simulated run."""
    for ours, theirs in (
        (rounds.history_frame(), result.history),
        (rounds.layers_frame(), result.layers),
        (rounds.clients_frame(), result.clients),
    ):
        assert list(ours.columns) == list(theirs.columns) and len(ours) == len(theirs)
        for name in ours:
            if ours[name].dtype.kind == "f":
                np.testing.assert_allclose(ours[name], theirs[name], rtol=most, atol=0)
            else:
                assert ours[name].tolist() == theirs[name].tolist()


@pytest.mark.parametrize(
    ("name", "settings"), [(name, {}) for name in SPLIT] + [("fedobp", v) for v in VARIANTS]
)
def test_apart_they_have_the_history_of_the_simulation(name, settings, tmp_path):
    config = tiny_config(name, **settings)
    rounds = server_of(config, Direct(clients_of(config, tmp_path / "own")))
    rounds.begin()
    rounds.run(progress=False)
    assert rounds.faults == []
    # APFL sums up a row, which one row alone does in another order.
    same(rounds, run(config, progress=False), 1e-5 if name == "apfl" else 0.0)


def test_a_robust_server_is_that_of_the_simulation(tmp_path):
    config = replace(tiny_config("fedper"), aggregator="median")
    rounds = server_of(config, Direct(clients_of(config, tmp_path / "own")))
    rounds.begin()
    rounds.run(progress=False)
    same(rounds, run(config, progress=False))
    assert run(config).accuracy() != run(replace(config, aggregator="mean")).accuracy()


def test_what_is_not_tested_in_the_simulation_is_not_told_of_the_federation(tmp_path):
    config = replace(tiny_config("fedavg"), eval_cohort=2)
    rounds = server_of(config, Direct(clients_of(config, tmp_path / "own")))
    rounds.begin()
    rounds.run(progress=False)
    same(rounds, run(config, progress=False))
    cohort = rounds.history_frame().query("scope == 'cohort'")["round"]
    assert sorted(set(cohort)) == [2, 4, 5]


def test_a_client_has_its_own_samples_and_the_server_none(tmp_path):
    clients = clients_of(tiny_config("fedavg"), tmp_path / "own")
    images = [client.method.federation.data.images for client in clients.values()]
    assert sum(map(len, images)) == len(load("tiny").images)
    for number, client in clients.items():
        counts = client.method.federation.data.train_counts
        assert counts[number] > 0 and counts.sum() == counts[number]
    server = server_of(tiny_config("fedavg"), Direct(clients)).method.federation.data
    assert len(server.images) == len(server.labels) == 0
    assert (server.train_counts > 0).all()


def test_who_sends_nonsense_is_refused_by_name_and_left_out_of_the_mean(tmp_path):
    config = tiny_config("fedavg")
    first, second, third = sample_cohort(0, 2, CLIENTS, 3).tolist()
    link = Direct(clients_of(config, tmp_path / "own"))
    link.spoil = {
        ("train", 2, first): lambda tensors: tensors["model"].view(-1)[3].fill_(torch.nan),
        ("train", 2, second): lambda tensors: tensors.update(model=tensors["model"][:5]),
    }
    said = []
    rounds = server_of(config, link, said.append)
    rounds.begin()
    rounds.step()
    rounds.step()
    assert torch.equal(rounds.method.global_params, link.uploads[2, third])
    assert said[0] == f"round 2: client {first} is refused: 'model' holds NaN or infinity"
    assert said[1].startswith(f"round 2: client {second} is refused: 'model' has the shape (5,)")
    assert [fault["client"] for fault in rounds.faults] == [first, second]
    rounds.run(progress=False)
    assert rounds.round == 5 and len(rounds.faults) == 2


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda tensors: tensors.update(model=tensors["model"].double()), "is of float64"),
        (lambda tensors: tensors.pop("loss"), "it lacks 'loss'"),
        (lambda tensors: tensors["samples"].add_(1), "it says that it has"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "holds an unexpected 'more'"),
        (lambda tensors: tensors["loss"].fill_(torch.inf), "'loss' holds NaN or infinity"),
    ],
)
def test_other_nonsense_is_refused(spoil, reason, tmp_path):
    config = tiny_config("fedper")
    client = int(sample_cohort(0, 1, CLIENTS, 3)[0])
    link, said = Direct(clients_of(config, tmp_path / "own")), []
    link.spoil = {("train", 1, client): spoil}
    rounds = server_of(config, link, said.append)
    rounds.begin()
    rounds.step()
    assert len(said) == 1 and f"client {client} is refused: " in said[0] and reason in said[0]


def test_who_dies_is_left_out_until_the_end_and_without_clients_all_stops(tmp_path):
    config = tiny_config("fedobp", quantile=0.9)
    dies = int(sample_cohort(0, 3, CLIENTS, 3)[0])
    link, said = Direct(clients_of(config, tmp_path / "own")), []
    link.spoil = {("train", 3, dies): "die"}
    rounds = server_of(config, link, said.append)
    rounds.begin()
    for _ in range(4):
        rounds.step()
    assert said == [f"round 3: client {dies} is gone"]
    later = {row[2] for row in rounds.tally.rows if row[0] > 3}
    assert later == set(range(CLIENTS)) - {dies}
    link.gone = set(range(CLIENTS))
    with pytest.raises(FederationFailed, match="round 5: no client is left"):
        rounds.step()


@pytest.mark.parametrize("again", ["server", "all"])
@pytest.mark.parametrize(
    ("name", "settings"), [("fedper", {}), ("fedobp", {"ema": 0.5}), ("fedobp", VARIANTS[1])]
)
def test_after_a_break_all_go_on_from_the_checkpoint(again, name, settings, tmp_path):
    """Rounds after it count for nothing, even where clients have taken them, or saved."""
    config = tiny_config(name, **settings)
    link = Direct(clients_of(config, tmp_path / "own"))
    rounds = server_of(config, link)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", 0.0)
    rounds.begin()
    for number in range(4):
        rounds.step()
        if number < 3:
            assert checkpoint.save_if_due(rounds)
            rounds.commit_state()
    rounds.state()  # the clients have saved round 4, but the checkpoint is not written
    if again == "all":
        link = Direct(clients_of(config, tmp_path / "own"))
    rounds = server_of(config, link)
    checkpoint.restore(rounds)
    assert rounds.round == 3
    rounds.begin()
    rounds.run(progress=False)
    same(rounds, run(config, progress=False))


def test_without_what_a_client_had_saved_nothing_goes_on(tmp_path):
    config, said = tiny_config("fedper"), []
    rounds = server_of(config, Direct(clients_of(config, tmp_path / "own")))
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", 0.0)
    rounds.begin()
    rounds.step()
    checkpoint.save_if_due(rounds)
    next((tmp_path / "own" / "2").glob("state-*")).unlink()

    class Honest(Direct):
        def _one(self, client, request):
            try:
                return super()._one(client, request)
            except UserError as error:
                return Fault(f"has failed: {error}")

    rounds = server_of(config, Honest(clients_of(config, tmp_path / "own")), said.append)
    checkpoint.restore(rounds)
    with pytest.raises(FederationFailed, match="client 2 cannot go on from round 1"):
        rounds.begin()
    assert said == ["round 1: client 2 has failed: it has nothing saved of round 1"]


def test_methods_that_cannot_be_taken_apart_are_named():
    with pytest.raises(UserError, match="'fedselect' cannot be federated"):
        check_method("fedselect")
    for name in SPLIT:
        check_method(name)
