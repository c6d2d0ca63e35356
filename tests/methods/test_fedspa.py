"""FedSpa against a literal version of its rounds, and its promise: never above the density."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.literal import COHORTS, batches, make, module_of, play, row_of, same, tiny_federation
from helpers.literal import models_before as shown
from hypothesis import given, settings
from hypothesis import strategies as st

from fedobp_lib import RunConfig
from fedobp_lib.data.datasets import load
from fedobp_lib.errors import UserError
from fedobp_lib.methods.fedspa import erk_counts
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.simulation import simulate

ROUNDS = len(COHORTS)

# A score at a threshold may fall on either side of it by rounding: so many, of 86,000.
TIES = 4


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only lose by a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def federation_of(backend="loop"):
    return replace(tiny_federation(backend), rounds=ROUNDS)


def named(federation, mask):
    """A mask (P,) as tensors by name, 0 and 1, in the modules' own order."""
    row = torch.zeros(federation.layout.size)
    row[: federation.layout.parameters] = mask.float()
    return {name: view.clone() for name, view in federation.layout.views(row).items()}


def literal_exchange(keep, model, gradient, rate):
    """Drop the weights of smallest magnitude, then grow by the gradient's, tensor by tensor."""
    keep = {name: tensor.clone() for name, tensor in keep.items()}
    for name, parameter in model.named_parameters():
        flags = keep[name].flatten().tolist()
        if all(flags):
            continue
        count = math.ceil(rate * sum(flags))
        weights = parameter.detach().flatten().tolist()
        slopes = gradient[name].flatten().tolist()
        active = sorted((i for i, f in enumerate(flags) if f), key=lambda i: abs(weights[i]))
        for i in active[:count]:
            flags[i] = 0.0
        free = sorted((i for i, f in enumerate(flags) if not f), key=lambda i: -abs(slopes[i]))
        for i in free[:count]:
            flags[i] = 1.0
        keep[name] = torch.tensor(flags).view_as(parameter)
    return keep


def literal_client(federation, server, keep, client, round_, rate):
    """One client's round: its models before and after, and its next mask."""
    local = federation.trainer.settings
    model = module_of(federation, server)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(keep[name])
    before = row_of(federation, model)
    optimizer = torch.optim.SGD(model.parameters(), local.lr, local.momentum)
    for epoch in batches(federation, client, round_):
        for x, y in epoch:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.mul_(keep[name])
    images, labels = federation.data.train(client)
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    gradient = {name: parameter.grad for name, parameter in model.named_parameters()}
    return before, model, literal_exchange(keep, model, gradient, rate)


def literal_server(federation, server, models, keeps, average):
    """The paper's step, w - 1/S sum of the clients' masked updates; DisPFL's mean for holders."""
    model = module_of(federation, server)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            update, holders = torch.zeros_like(parameter), torch.zeros_like(parameter)
            for trained, keep in zip(models, keeps, strict=True):
                update += keep[name] * (parameter - trained.get_parameter(name))
                holders += keep[name]
            divisor = holders.clamp(min=1) if average == "holders" else len(models)
            parameter.sub_(update / divisor)
    return row_of(federation, model)


@pytest.mark.parametrize("average", [None, "cohort", "holders"])
def test_fedspa_is_its_papers_algorithm(average):
    """The paper's without a setting, and DisPFL's server when asked for."""
    federation = federation_of()
    chosen = {} if average is None else {"average": average}
    method = make("fedspa", federation, density=0.3, same_masks=False, **chosen)
    server, layout = federation.initial.clone(), federation.layout
    masks = {i: named(federation, method.state["masks"][i]) for i in range(5)}
    for number, cohort in enumerate(COHORTS, 1):
        method.round = number
        clients = torch.tensor(cohort)
        start, personal = method.start(clients)
        assert torch.equal(personal, method.state["masks"][clients])
        trained = method.train(start, clients)
        method.finish(clients, start, trained)
        rate = 0.5 / 2 * (1 + math.cos((number - 1) * math.pi / ROUNDS))
        models, keeps = [], [masks[client] for client in cohort]
        for k, client in enumerate(cohort):
            before, model, grown = literal_client(
                federation, server, masks[client], client, number, rate
            )
            models.append(model)
            assert same(start[k], before)
            assert same(trained[k], row_of(federation, model))
            ours = named(federation, method.state["masks"][client])
            assert sum(int((ours[name] != grown[name]).sum()) for name in ours) <= TIES
            masks[client] = ours  # the same side of a tie for both
        server = literal_server(federation, server, models, keeps, average)
        assert same(method.global_params, server)
    for client in range(5):
        keep = torch.cat([view.flatten() for view in masks[client].values()])
        expected = layout.views(server)
        ours = layout.views(shown(method, [client])[0])
        expected = torch.cat([view.flatten() for view in expected.values()]) * keep
        assert same(torch.cat([view.flatten() for view in ours.values()]), expected)


def test_batched_equals_loop():
    """Each round begins from the same state, so that a tie does not grow."""
    loop, batched = (
        make("fedspa", federation_of(b), density=0.3, same_masks=False) for b in ("loop", "batched")
    )
    for number, cohort in enumerate(COHORTS, 1):
        for name, tensor in loop.state.items():
            batched.state[name].copy_(tensor)
        clients = torch.tensor(cohort)
        rows = []
        for method in (loop, batched):
            method.round = number
            start, _ = method.start(clients)
            rows.append(method.train(start, clients))
            method.finish(clients, start, rows[-1])
        assert same(rows[1], rows[0], 1e-4)
        assert same(batched.global_params, loop.global_params, 1e-4)
        assert (batched.state["masks"] != loop.state["masks"]).sum() <= TIES * len(cohort)


def test_no_client_ever_holds_more_than_its_density():
    federation = federation_of()
    limit = 0.2 * federation.layout.parameters
    method = make("fedspa", federation, density=0.2, same_masks=False)
    first = method.state["masks"].clone()
    clients = torch.arange(5)
    for number, cohort in enumerate(COHORTS, 1):
        ((start, trained),) = play(method, [cohort])
        method.round = number
        for rows in (start, trained, shown(method, clients.tolist())):
            assert ((rows != 0).sum(1) <= limit).all()
        assert (method.state["masks"].sum(1) == first.sum(1)).all()
        assert (method.state["masks"].sum(1) > 0.99 * limit).all()
    assert (method.state["masks"] != first).any(1).tolist() == [True, True, True, False, True]


@given(
    density=st.floats(0.05, 1.0),
    rate=st.floats(0.0, 1.0),
    round_=st.integers(1, ROUNDS),
    seed=st.integers(0, 99),
)
@settings(max_examples=8)
def test_an_exchange_keeps_the_count_of_every_tensor(density, rate, round_, seed):
    federation = federation_of()
    method = make("fedspa", federation, density=density, prune_rate=rate, same_masks=False)
    method.round = round_
    masks = method.state["masks"][:2]
    noise = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, federation.layout.size, generator=noise) * masks
    gradients = torch.randn(2, federation.layout.parameters, generator=noise)
    changed = method.exchange(masks, weights, gradients)
    assert torch.equal(masks, method.state["masks"][:2])
    dropped, grown = masks & ~changed, changed & ~masks
    for name, columns in federation.layout.spans.items():
        before, after = masks[:, columns], changed[:, columns]
        assert torch.equal(before.sum(1), after.sum(1))
        if name.endswith("bias"):
            assert after.all()
        for k in range(2):
            out, new = dropped[k, columns], grown[k, columns]
            assert out.sum() <= math.ceil(rate * int(before[k].sum()))
            idle, slope = ~after[k], gradients[k, columns].abs()
            if new.any() and idle.any():  # what has grown has the larger gradients
                assert slope[new].min() >= slope[idle].max()
            if out.any():  # and what has gone was among the smallest weights
                size = weights[k, columns].abs()
                rank = int((size[before[k]] < size[out].max()).sum())
                assert rank < math.ceil(rate * int(before[k].sum()))
    assert (changed.sum(1) <= density * federation.layout.parameters).all()

    # Where nothing comes back, as much has changed as the cosine says.
    gradients[masks] = 0
    grown = method.exchange(masks, weights, gradients) & ~masks
    annealed = rate / 2 * (1 + math.cos(math.pi * (round_ - 1) / ROUNDS))
    for columns in federation.layout.spans.values():
        held = int(masks[0, columns].sum())
        free = masks[0, columns].numel() - held
        assert (grown[:, columns].sum(1) == min(math.ceil(annealed * held), free)).all()


def literal_erk(shapes, density):
    """Evci et al.'s search for epsilon: the fullest tensor becomes dense, one at a time."""
    dense = {name for name, shape in shapes.items() if len(shape) == 1}
    while dense != set(shapes):
        budget = density * sum(np.prod(shape) for shape in shapes.values())
        budget -= sum(np.prod(shapes[name]) for name in dense)
        raw = {n: np.sum(s) / np.prod(s) for n, s in shapes.items() if n not in dense}
        epsilon = budget / sum(raw[n] * np.prod(shapes[n]) for n in raw)
        fullest = max(raw, key=raw.get)
        if epsilon * raw[fullest] < 1:
            return {n: epsilon * raw.get(n, math.inf) for n in shapes}
        dense.add(fullest)
    return dict.fromkeys(shapes, math.inf)


@pytest.mark.parametrize("name", ["avgcnn", "resnet18"])
@pytest.mark.parametrize("density", [0.02, 0.2, 0.5, 0.9, 1.0])
def test_layers_share_the_density_by_erk(name, density):
    layout = ParameterLayout.of(build_model(name, (32, 32, 3), 10, seed=0))
    shapes = {
        name: tuple(shape)
        for name, shape in zip(layout.names, layout.shapes, strict=True)
        if layout.spans[name].start < layout.parameters
    }
    counts, expected = erk_counts(layout, density), literal_erk(shapes, density)
    assert counts.keys() == shapes.keys()
    for tensor, shape in shapes.items():
        size = int(np.prod(shape))
        assert abs(counts[tensor] - min(1, expected[tensor]) * size) <= 1
    total = sum(counts.values())
    assert density * layout.parameters - len(shapes) < total <= density * layout.parameters


def test_masks_survive_rounds_without_their_client():
    federation = federation_of()
    method = make("fedspa", federation, density=0.3)
    first = method.state["masks"].clone()
    assert (first == first[0]).all()
    play(method, COHORTS[:1])
    kept = method.state["masks"].clone()
    play(method, COHORTS[1:2])
    assert torch.equal(method.state["masks"][[0, 3]], kept[[0, 3]])
    assert not torch.equal(kept[0], first[0]) and torch.equal(kept[3], first[3])
    assert not torch.equal(method.state["masks"][1], kept[1])
    absent = shown(method, [0, 3])
    size = federation.layout.parameters
    assert torch.equal(absent[:, :size], method.global_params[:size] * kept[[0, 3]])


def test_the_server_keeps_what_no_client_of_the_cohort_had():
    """And inactive parameters are exactly zero on the clients."""
    federation = federation_of()
    method = make("fedspa", federation, density=0.3)
    mask = method.state["masks"][0].clone()
    ((start, trained),) = play(method, COHORTS[:1])
    assert not start[:, ~mask].any() and not trained[:, ~mask].any()
    assert torch.equal(start[:, mask], federation.initial[mask].expand(3, -1))
    assert torch.equal(method.global_params[~mask], federation.initial[~mask])
    assert (method.global_params != federation.initial)[mask].float().mean() > 0.5


def test_the_exchange_fades_out_over_the_run():
    method = make("fedspa", replace(federation_of(), rounds=8), prune_rate=0.4)
    rates = []
    for method.round in range(1, 9):
        rates.append(method.prune_rate)
    assert rates[0] == 0.4 and rates[4] == pytest.approx(0.2) and rates[-1] < 0.02
    assert rates == sorted(rates, reverse=True)
    simulation = simulate(RunConfig(method="fedspa", rounds=7, clients=6), load("digits"))
    assert simulation.method.federation.rounds == 7

    static = make("fedspa", federation_of(), density=0.3, prune_rate=0.0)
    masks = static.state["masks"].clone()
    play(static, COHORTS[:1])
    assert torch.equal(static.state["masks"], masks)


def test_own_first_masks():
    federation = federation_of()
    masks = make("fedspa", federation, density=0.3, same_masks=False).state["masks"]
    again = make("fedspa", federation, density=0.3, same_masks=False).state["masks"]
    assert torch.equal(masks, again)
    both = (masks[0] & masks[1])[federation.layout.spans["conv2.weight"]].float().mean()
    alone = masks[0][federation.layout.spans["conv2.weight"]].float().mean()
    assert float(both) == pytest.approx(float(alone) ** 2, abs=0.02)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"density": 0.0}, "density"),
        ({"density": 1.1}, "density"),
        ({"density": 0.001}, "no room"),
        ({"prune_rate": -0.1}, "prune rate"),
        ({"average": "holder"}, "did you mean 'holders'"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        make("fedspa", tiny_federation(), **values)
