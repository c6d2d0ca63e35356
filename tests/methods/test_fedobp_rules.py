"""FedOBP with other rules, scores and merges than the paper's."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers.batchnorm import normalized_federation
from helpers.direct_link import tiny_config
from helpers.literal import COHORTS, make, module_of, play, tiny_federation

from fedobp_lib import RunConfig, UserError, run, run_all
from fedobp_lib.data.datasets import load
from fedobp_lib.methods import METHODS, make_settings
from fedobp_lib.runs.store import load_data, run_id
from fedobp_lib.selection import SHARES
from fedobp_lib.simulation import simulate
from fedobp_lib.training.trainer import Trainer

# At this small size 1 - 1e-4 is a handful of parameters.
HELD_OUT = {"select": "held_out"}
VARIANTS = [
    HELD_OUT,
    HELD_OUT | {"merge": "soft", "held_out": 0.4},
    {"score": "taylor", "quantile": 0.99},
    {"score": "random", "quantile": 0.9},
    {"select": "knee", "ema": 0.5},
    {"select": "layers", "quantile": 0.99, "merge": "soft"},
    {"select": "count", "count": 40, "among": "classifier"},
]


def started(method, *clients):
    return method.start(torch.tensor(clients))


def played(**settings):
    method = make("fedobp", tiny_federation(), **settings)
    return method, play(method)


@pytest.mark.parametrize("more", [{}, {"score": "taylor"}, {"among": "classifier"}])
def test_count_is_exact_in_every_round(more):
    """Also in the first, where all scores are 0, and for a client that is new in a later one."""
    method = make("fedobp", tiny_federation(), select="count", count=37, **more)
    for number, cohort in enumerate(COHORTS, 1):
        clients, method.round = torch.tensor(cohort), number
        start, personal = method.start(clients)
        assert personal.sum(1).tolist() == [37] * len(cohort)
        method.finish(clients, start, method.train(start, clients))


@pytest.mark.parametrize("among", ["classifier", "biases"])
def test_only_the_part_that_is_named_is_personal(among):
    method, _ = played(select="count", count=3, among=among)
    layout = method.federation.layout
    part = layout.layers["classifier"] if among == "classifier" else layout.spans["classifier.bias"]
    start, personal = started(method, 0, 1)
    outside = torch.ones(layout.parameters, dtype=torch.bool)
    outside[part] = False
    assert personal.sum() == 6 and not personal[:, outside].any()
    assert torch.equal(start[:, outside], method.global_params[outside].expand(2, -1))


def test_the_classifier_is_named_in_two_ways():
    one, ours = played(classifier_only=True, quantile=0.9)
    other, theirs = played(among="classifier", quantile=0.9)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
    assert started(one, 0)[1].any() and torch.equal(started(one, 0)[1], started(other, 0)[1])


@pytest.mark.parametrize(
    "rule", [{"quantile": 0.99}, {"quantile": 0.5}, {"select": "count", "count": 200}]
)
def test_the_distance_has_the_history_of_its_square(rule):
    (_, squared), (_, plain) = played(**rule), played(score="distance", **rule)
    for (a, b), (c, d) in zip(squared, plain, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    _, fewer = played(select="count", count=3)
    assert not torch.equal(fewer[-1][0], plain[-1][0])


def test_the_whole_classifier_is_fedper():
    federation = tiny_federation()
    columns = federation.layout.layers["classifier"]
    count = columns.stop - columns.start
    ours = make("fedobp", federation, select="count", count=count, among="classifier")
    fedper = make("fedper", tiny_federation())
    for (a, b), (c, d) in zip(play(ours), play(fedper), strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
    everyone = torch.arange(federation.data.clients)
    assert torch.equal(ours.start(everyone)[0], fedper.start(everyone)[0])


def test_taylor_is_the_gradient_times_the_difference():
    method, _ = played(score="taylor", select="count", count=50)
    data, layout = method.federation.data, method.federation.layout
    for client in (0, 4):
        local = method.state["local"][client]
        model = module_of(method.federation, local).eval()
        images, labels = data.train(client)
        F.cross_entropy(model(images), labels).backward()
        gradient = layout.join([parameter.grad for parameter in model.parameters()])
        score = (gradient * (local - method.global_params)[: layout.parameters]).abs()
        _, personal = started(method, client)
        assert score[personal[0]].min() >= score[~personal[0]].max() * (1 - 1e-3)


def test_random_is_the_same_for_a_client_in_all_rounds_and_as_many_as_by_importance():
    method = make("fedobp", tiny_federation(), score="random", quantile=0.99)
    before = started(method, *range(5))[1]
    play(method)
    assert torch.equal(started(method, *range(5))[1], before)
    assert torch.equal(started(method, 3)[1][0], before[3])  # whoever else is there
    ours = played(quantile=0.99)[0]
    assert before[:3].sum(1).tolist() == started(ours, 0, 1, 2)[1].sum(1).tolist()
    overlap = (before[0] & before[1]).sum() / before[0].sum()
    assert overlap < 0.05  # 1 % would be chance
    other = make("fedobp", tiny_federation(), score="random", quantile=0.99)
    other.federation.data.seed += 1
    assert not torch.equal(started(other, 0)[1][0], before[0])


def test_the_merge_that_does_best_on_held_out_samples_is_taken():
    """Literally: every share's merged model, as a module, on the samples that nobody trains on."""
    method, _ = played(**HELD_OUT)
    data, server = method.federation.data, method.global_params
    chosen = set()
    for client in range(5):
        local = method.state["local"][client]
        score = ((local - server) ** 2).double().numpy()
        images, labels = data.take(torch.from_numpy(data.of("held_out", client)))
        rows, losses = [], []
        for share in SHARES:
            tau = {0: np.inf, 1: -np.inf}.get(share)
            tau = np.quantile(score, 1 - share) if tau is None else tau
            rows.append(torch.where(torch.from_numpy(score > tau), local, server))
            with torch.no_grad():
                model = module_of(method.federation, rows[-1]).eval()
                losses.append(F.cross_entropy(model(images), labels).item())
        best = int(np.argmin(losses))
        chosen.add(best)
        start, personal = started(method, client)
        torch.testing.assert_close(start[0], rows[best])
        assert personal.sum().item() == pytest.approx(SHARES[best] * len(score), abs=1)
    assert len(chosen) > 1  # else it would be no choice


def test_held_out_samples_are_never_trained_on():
    """Wrong labels there change what a client chooses by, and nothing in training."""
    federation = tiny_federation()
    data = federation.data
    clean = make("fedobp", federation, **HELD_OUT)
    held = [clean.federation.data.of("held_out", client) for client in range(5)]
    spoiled = copy.copy(data)
    spoiled.labels = data.labels.clone()
    for samples in held:
        spoiled.labels[torch.from_numpy(samples)] = (data.labels[samples] + 1) % 3
    trainer = Trainer(federation.trainer.backend, spoiled, federation.trainer.settings)
    dirty = replace(federation, data=spoiled, trainer=trainer)
    wrong = make("fedobp", dirty, **HELD_OUT)
    for client, samples in enumerate(held):
        assert np.array_equal(samples, wrong.federation.data.of("held_out", client))
    clients = torch.arange(5)
    start = federation.initial.expand(5, -1) + 0.01
    for purpose in (2, 3):  # training, and fine-tuning
        assert torch.equal(
            clean.train(start, clients, purpose), wrong.train(start, clients, purpose)
        )
    gradients = [m.federation.trainer.gradient(start, range(5)) for m in (clean, wrong)]
    assert torch.equal(*gradients)
    for name in ("train_counts", "class_counts"):
        ours, theirs = (getattr(method.federation.data, name) for method in (clean, wrong))
        assert torch.equal(ours, theirs)
    losses = [m.federation.trainer.losses(start, range(5), part="held_out") for m in (clean, wrong)]
    assert not torch.equal(*losses)
    everything = [make("fedobp", of).train(start, clients) for of in (federation, dirty)]
    assert not torch.equal(*everything)  # where nothing is held out


def test_parts_of_held_out_data_are_one_split():
    data = tiny_federation().data
    left = data.holding_out(0.3)
    for client in range(5):
        parts = [left.of(part, client) for part in ("train", "held_out")]
        assert sorted(np.concatenate(parts)) == sorted(data.of("train", client))
        count = len(data.of("train", client))
        assert len(parts[1]) == min(max(round(0.3 * count), 1), count - 1)
        assert np.array_equal(left.of("test", client), data.of("test", client))
        assert left.train_counts[client] == len(parts[0])
        labels = np.bincount(data.labels[parts[0]], minlength=3)
        assert left.class_counts[client].tolist() == labels.tolist()
    assert left.shares_images(data) and left.split is data.partition
    again = data.holding_out(0.3)
    assert all(np.array_equal(left.of("held_out", c), again.of("held_out", c)) for c in range(5))


def test_soft_values_lie_between_and_personal_is_what_is_above_the_threshold():
    method, _ = played(merge="soft", quantile=0.9)
    start, personal = started(method, 0, 1)
    local, server = method.state["local"][[0, 1]], method.global_params.expand(2, -1)
    low, high = torch.minimum(local, server), torch.maximum(local, server)
    assert (start >= low - 1e-7).all() and (start <= high + 1e-7).all()
    nearer = (start - local).abs() < (start - server).abs()
    assert torch.equal(nearer, personal) and 0 < personal.sum() < personal.numel() / 5


@pytest.mark.parametrize("settings", VARIANTS)
def test_back_ends_agree(settings):
    """Also about what is held out, and which share of it all does best."""
    (loop, batched) = (
        make("fedobp", tiny_federation(backend), **settings) for backend in ("loop", "batched")
    )
    for (a, b), (c, d) in zip(play(loop), play(batched), strict=True):
        assert (a - c).abs().max() < 1e-4 and (b - d).abs().max() < 1e-4
    assert (loop.global_params - batched.global_params).abs().max() < 1e-4


@pytest.mark.parametrize("settings", [*VARIANTS, HELD_OUT | {"score": "taylor", "ema": 0.5}])
def test_a_run_that_goes_on_is_as_if_nothing_had_happened(settings):
    config = tiny_config("fedobp", **settings)
    data = load("tiny")
    first, whole = simulate(config, data), simulate(config, data)
    first.step()
    first.step()
    state = copy.deepcopy(first.state())
    again = simulate(config, data)
    again.load_state(state)
    for simulation in (again, whole):
        simulation.run(progress=False)
    for frame in ("history_frame", "layers_frame", "clients_frame"):
        pd.testing.assert_frame_equal(getattr(again, frame)(), getattr(whole, frame)())


def test_banks_and_packs_change_nothing(tmp_path):
    configs = [
        RunConfig(**vars(tiny_config("fedobp", **HELD_OUT, **more)) | {"seed": seed})
        for more in ({}, {"score": "taylor"})
        for seed in (0, 1)
    ]
    alone = [run(config, progress=False, directory=tmp_path / "alone") for config in configs]
    disk = run(configs[0], progress=False, bank="disk", directory=tmp_path / "disk")
    pd.testing.assert_frame_equal(disk.history, alone[0].history)
    packed = run_all(configs, progress=False, pack=4)
    for one, other in zip(alone, packed, strict=True):
        pd.testing.assert_frame_equal(one.history, other.history)
        pd.testing.assert_frame_equal(one.clients, other.clients)


def test_running_statistics_go_by_any_rule():
    federation = normalized_federation()
    layout = federation.layout
    settings = {"buffers": True, "select": "layers", "quantile": 0.5}
    method = METHODS["fedobp"](federation, make_settings(METHODS["fedobp"], settings))
    clients = torch.tensor([0, 1])
    method.round = 1
    start, _ = method.start(clients)
    method.finish(clients, start, method.train(start, clients))
    start, _ = method.start(clients)
    local, server = method.state["local"][clients], method.global_params
    statistics = [span for span in layout.spans.values() if span.start >= layout.parameters]
    for span in [*layout.layers.values(), *statistics]:
        score = ((local - server) ** 2)[:, span]
        kept = score > torch.quantile(score, 0.5, dim=1, keepdim=True)
        assert torch.equal(start[:, span], torch.where(kept, local[:, span], server[span]))


def test_new_settings_leave_the_ids_of_older_runs_alone():
    def name(**settings):
        return run_id(RunConfig(settings=settings).resolved(), load_data("digits"))

    now = {"select": "quantile", "merge": "hard", "among": "all", "held_out": 0.2, "count": None}
    assert name() == name(**now)
    others = [{"select": "knee"}, {"merge": "soft"}, {"among": "biases"}, {"score": "random"}]
    others += [HELD_OUT, HELD_OUT | {"held_out": 0.3}]
    assert len({name(), *(name(**settings) for settings in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select": "kne"}, "did you mean 'knee'"),
        ({"merge": "sof"}, "did you mean 'soft'"),
        ({"among": "biasses"}, "did you mean 'biases'"),
        ({"select": "knee", "quantile": 0.9}, "select=knee needs no quantile"),
        ({"select": "count"}, "set both or none"),
        ({"count": 5}, "set both or none"),
        ({"select": "count", "count": -1}, "must not be negative"),
        ({"select": "held_out", "held_out": 1.0}, "held_out must lie between"),
        ({"held_out": 0.3}, "set that too"),
        ({"scoring": "server", "score": "taylor"}, "cannot take Taylor scores"),
        ({"scoring": "server", "select": "held_out"}, "samples that clients hold out"),
        ({"scoring": "server", "downlink": "sparse", "merge": "soft"}, "no sparse downlink"),
        ({"classifier_only": True, "among": "biases"}, "set one of them"),
        ({"buffers": True, "score": "taylor"}, "no gradient"),
        ({"buffers": True, "among": "biases"}, "no part of the classifier"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    with pytest.raises(UserError, match=message) as refused:
        make_settings(METHODS["fedobp"], settings)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 110


def test_more_than_there_are_cannot_be_counted_nor_a_single_sample_held_out():
    with pytest.raises(UserError, match="the count must be at most 3, got 4"):
        make("fedobp", tiny_federation(), among="biases", select="count", count=4)
    data = tiny_federation().data
    split = data.partition
    offsets = np.array([0, 1, *split.train_offsets[2:]])
    object.__setattr__(split, "train_offsets", offsets)
    with pytest.raises(UserError, match="client 0 has a single training sample"):
        data.holding_out(0.2)
