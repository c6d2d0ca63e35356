"""Byzantine clients: what they send, what they keep, who is measured, and what helps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.literal import COHORTS, make, play, same, tiny_federation, tiny_images

from fedobp_lib import RunConfig, UserError, run, run_all
from fedobp_lib.data.clients import ATTACKS, sample_cohort, stream
from fedobp_lib.federate.launch import federate
from fedobp_lib.methods import METHODS, Adversaries, Attack, in_parts
from fedobp_lib.methods.base import Method
from fedobp_lib.runs import packs
from fedobp_lib.simulation import simulate

TINY = {"clients": 5, "participation": 0.6, "rounds": 3, "local_epochs": 1, "batch_size": 8,
        "lr": 0.05, "eval_every": 1}  # fmt: skip
DIGITS = TINY | {"rounds": 2, "batch_size": 64, "lr": 0.01}
ATTACKS_OF_ALL_KINDS = ("sign_flip:0.4:2", "noise:0.4:0.1", "label_flip:0.4")


def tiny(backend="loop", **fields):
    """A simulation on tiny images."""
    return simulate(RunConfig(**(TINY | fields)), tiny_images(), backend=backend)


STRENGTH = {"sign_flip": 0.5, "noise": 0.05}  # more noise than this, and numbers grow to infinity


def forged(kind, honest, reference, number, client):
    """What arrives of an upload, written out."""
    if kind == "sign_flip":
        return reference - 0.5 * (honest - reference)
    noise = stream(5, ATTACKS, number, client).standard_normal(len(honest), dtype=np.float32)
    return reference + 0.05 * torch.from_numpy(noise)


@pytest.mark.parametrize("kind", ["sign_flip", "noise"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("fedavg", {}), ("fedper", {}), ("apfl", {}), ("ffgg", {}), ("ffgg", {"variant": "gradient"})],
)
def test_what_is_sent_is_forged_and_what_is_kept_is_not(kind, name, settings, monkeypatch):
    """Round by round beside methods whose attackers' uploads are replaced by hand."""
    attack = Attack(kind, 0.4, STRENGTH[kind])
    federation = tiny_federation()
    adversaries = Adversaries(attack, 5, federation.data.seed)
    assert adversaries.members.sum() == 2
    attacked = make(name, replace(federation, adversaries=adversaries), **settings)
    literal = make(name, federation, **settings)
    upload = literal.upload

    def by_hand(clients, start, trained):
        rows = upload(clients, start, trained).clone()
        for row, client in zip(rows, clients.tolist(), strict=True):
            if adversaries.members[client]:
                reference = literal.global_params[literal.travels].clone()
                if settings:  # a gradient, of a model without running statistics
                    reference.zero_()
                row.copy_(forged(kind, row, reference, literal.round, client))
        return rows

    literal.upload = by_hand
    untouched = make(name, federation, **settings)
    for ours, theirs in zip(play(attacked), play(literal), strict=True):
        assert same(ours[1], theirs[1])
    for part, value in literal.state.items():
        assert same(attacked.state[part], value)
    play(untouched, COHORTS[:1])
    replayed = make(name, replace(federation, adversaries=adversaries), **settings)
    play(replayed, COHORTS[:1])
    assert not same(untouched.global_params, replayed.global_params, 1e-3)


def test_a_turned_gradient_moves_the_server_the_other_way():
    """All of a cohort attack: the server's step is minus the honest one."""
    federation = tiny_federation()
    adversaries = Adversaries(Attack("sign_flip", 0.5, 1.0), 5, 0)
    adversaries.members[:] = True
    moves = []
    for who in (None, adversaries):
        method = make("ffgg", replace(federation, adversaries=who), variant="gradient")
        play(method, COHORTS[:1])
        moves.append(method.global_params - federation.initial)
    assert same(moves[0], -moves[1])


def test_labels_are_flipped_for_attackers_alone():
    plain, flipped = tiny(), tiny(byzantine="label_flip:0.4")
    members = flipped.method.federation.adversaries.members
    assert members.sum() == 2
    for client in range(5):
        (_, before), (_, after) = (s.data.train(client) for s in (plain, flipped))
        assert torch.equal(after, 2 - before if members[client] else before)
        assert torch.equal(plain.data.test(client)[1], flipped.data.test(client)[1])
    assert torch.equal(plain.data.labels, torch.from_numpy(tiny_images().labels))


def test_the_share_is_of_all_clients_drawn_from_the_seed():
    for share, clients, count in [(0.2, 20, 4), (0.01, 20, 1), (0.99, 3, 2), (0.3, 10, 3)]:
        draws = [Adversaries(Attack("noise", share), clients, seed).members for seed in range(5)]
        assert {int(members.sum()) for members in draws} == {count}
        again = Adversaries(Attack("sign_flip", share), clients, 0).members
        assert np.array_equal(draws[0], again)
        assert len({tuple(members) for members in draws}) > 1


@pytest.mark.parametrize("byzantine", ATTACKS_OF_ALL_KINDS)
def test_only_honest_clients_are_measured(byzantine):
    """The same models, tested by hand on the honest clients alone."""
    simulation = tiny(byzantine=byzantine, method="fedobp", participation=1.0)
    honest = np.flatnonzero(~simulation.method.federation.adversaries.members)
    trainer, seen, take = simulation.trainer, {}, Method.finish

    def note(clients, start, trained):
        seen[simulation.round] = start[honest], trained[honest]
        take(simulation.method, clients, start, trained)

    simulation.method.finish = note
    simulation.run(progress=False)
    samples = np.diff(simulation.data.partition.test_offsets)[honest].sum()
    frame = simulation.history_frame().query("average == 'pooled'")
    told = frame.set_index(["round", "stage", "scope"])["accuracy"]
    for number, rows in seen.items():
        for stage, models in zip(("before", "after"), rows, strict=True):
            correct, _ = trainer.test(models, honest.tolist())
            right = 100 * correct.sum().item() / samples
            assert told[number, stage, "cohort"] == pytest.approx(right)
    start, _ = simulation.method.start(torch.from_numpy(honest))
    correct, _ = trainer.test(start, honest.tolist())
    assert told[3, "before", "all"] == pytest.approx(100 * correct.sum().item() / samples)
    clients = simulation.clients_frame()
    assert clients.loc[clients["accuracy_before"].notna(), "client"].tolist() == honest.tolist()
    personal = simulation.layers_frame().query("round == 2")["personalized"].sum()
    total = personal * len(honest)  # of a mean over the honest
    assert total == pytest.approx(round(total), rel=1e-12)


def test_a_cohort_of_attackers_alone_has_no_accuracy(tmp_path):
    config = RunConfig(**(TINY | {"participation": 0.2}), byzantine="noise:0.7:0.01")
    result = run(config, directory=tmp_path)
    members = Adversaries(Attack("noise", 0.7), 5, 0).members
    alone = [r for r in (1, 2, 3) if members[sample_cohort(0, r, 5, 1)].all()]
    assert alone
    cohort = result.history.query("scope == 'cohort'")
    assert sorted(cohort[cohort["accuracy"].isna()]["round"].unique()) == alone
    assert result.history.query("scope == 'all'").notna().all().all()


@pytest.mark.parametrize(
    ("byzantine", "aggregator"),
    zip((*ATTACKS_OF_ALL_KINDS, "none"), ("trimmed", "clipping", "mean", "median"), strict=True),
)
def test_batched_equals_loop(byzantine, aggregator):
    fields = {"byzantine": byzantine, "aggregator": aggregator, "method": "fedper", "rounds": 2}
    loop, batched = (tiny(backend, **fields) for backend in ("loop", "batched"))
    for simulation in (loop, batched):
        simulation.run(progress=False)
    assert same(loop.method.global_params, batched.method.global_params, 1e-4)


def test_a_pack_is_its_runs_alone(tmp_path):
    """Seeds have attackers of their own; whose labels are others, is trained in its own batch."""
    configs = [
        RunConfig(**DIGITS, method="fedavg", seed=seed, byzantine=byzantine)
        for byzantine in ("label_flip:0.4", "none")
        for seed in (0, 1)
    ]
    groups = [len(group) for group in packs.packs(configs, 4)]
    assert groups == [1, 1, 2]
    packed = run_all(configs, "cpu", pack=4, workers=1, progress=False)
    for config, result in zip(configs, packed, strict=True):
        alone = run(config, backend="batched", directory=tmp_path / "alone", progress=False)
        ours, theirs = (r.history["loss"].to_numpy() for r in (result, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_robust_aggregation_withstands_what_the_mean_does_not():
    """20 % sign flippers of strength 5 among clients that are much alike: the mean of all points
    backwards. All clients take part, so that every cohort holds its share of attackers."""
    base = RunConfig(method="fedavg", alpha=10.0, clients=10, participation=1.0, rounds=12,
                     local_epochs=1, lr=0.05, eval_after="never", eval_every=12)  # fmt: skip
    free = run(base).accuracy()
    attack = replace(base, byzantine="sign_flip:0.2:5")
    mean = run(attack)
    assert mean.diverged or mean.accuracy() < free - 20
    for aggregator in ("median", "clipping"):
        assert run(replace(attack, aggregator=aggregator)).accuracy() > free - 5


@pytest.mark.parametrize(
    ("text", "written"),
    [("none", "none"), ("sign_flip:0.2", "sign_flip:0.2:1.0"), ("noise:.1:2", "noise:0.1:2.0"),
     ("label_flip:0.3", "label_flip:0.3"), ("noise:0", "none")],
)  # fmt: skip
def test_each_is_written_in_one_way(text, written):
    assert RunConfig(byzantine=text).resolved().byzantine == written


@pytest.mark.parametrize(
    "fields",
    [{"byzantine": text} for text in
     ("", "flip:0.2", "sign_flip", "noise:", "noise:1", "noise:-0.1", "noise:nan", "none:0.1",
      "label_flip:0.2:1", "noise:0.1:1:1", "noise:0.1:inf", "noise:0.1:-1", "noise:x")]
    + [{"byzantine": "noise:0.1", "clients": 1}],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line(fields):
    with pytest.raises(UserError) as told:
        RunConfig(**fields).resolved()
    assert "\n" not in str(told.value)


def test_only_what_is_sent_apart_can_be_forged():
    for name, method in METHODS.items():
        RunConfig(method=name, byzantine="label_flip:0.2").resolved()
        config = RunConfig(method=name, byzantine="sign_flip:0.2")
        if in_parts(method):
            config.resolved()
        else:
            with pytest.raises(UserError, match=r"overrides `finish`"):
                config.resolved()


@pytest.mark.parametrize("option", [{"byzantine": "noise:0.2"}, {"delays": 2}])
def test_a_real_federation_refuses_them(option):
    with pytest.raises(UserError, match=f"has no {next(iter(option))}"):
        federate(RunConfig(clients=4, rounds=1, **option))
