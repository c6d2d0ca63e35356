"""FedOBP against a slow, literal version of Algorithm 1: one client at a time, plain loops."""

import numpy as np
import pytest
import torch
from helpers.batchnorm import normalized_federation
from helpers.slow_rounds import COHORTS, check_rounds

from fedobp_lib import RunConfig, UserError
from fedobp_lib.methods import METHODS, make_settings
from fedobp_lib.runs.store import load_data, run_id


def play(method, cohorts=COHORTS):
    """Rounds as the simulation runs them; returns what each client started from."""
    starts = []
    for number, cohort in enumerate(cohorts, 1):
        clients = torch.tensor(cohort)
        method.round = number
        start, personal = method.start(clients)
        starts.append((start.clone(), personal))
        method.finish(clients, start, method.train(start, clients))
    return starts


@pytest.mark.parametrize("q", [0.5, 0.999])
def test_fedobp_is_algorithm_1(federation, q):
    parameters = federation.layout.parameters

    def merge_one(local, global_):
        scores = ((local - global_) ** 2).double().numpy()
        tau = np.quantile(scores, q)
        return torch.where(torch.from_numpy(scores > tau), local, global_)

    method = METHODS["fedobp"](federation, make_settings(METHODS["fedobp"], {"quantile": q}))
    local = check_rounds(federation, method, merge_one)
    start, personal = method.start(torch.tensor([2]))
    assert abs(personal.sum() - (1 - q) * parameters) <= 10  # a few scores tie
    assert torch.equal(start[0][personal[0]], local[2][personal[0]])
    assert (start[0] != method.global_params).any()


def test_fedobp_scores_a_new_client_against_the_initial_model(federation):
    """Before its first round a client's local model is the initial one."""
    method = METHODS["fedobp"](federation)
    play(method, COHORTS[:1])
    start, personal = method.start(torch.tensor([1]))
    changed = (federation.initial - method.global_params) ** 2
    assert personal.sum() == pytest.approx(0.001 * federation.layout.parameters, abs=1)
    assert changed[personal[0]].min() >= changed[~personal[0]].max()
    assert torch.equal(start[0][personal[0]], federation.initial[personal[0]])


def test_fedobp_with_quantile_one_is_fedavg(federation):
    everything_global = make_settings(METHODS["fedobp"], {"quantile": 1.0})
    ours = METHODS["fedobp"](federation, everything_global)
    fedavg = METHODS["fedavg"](federation)
    for (a, personal), (b, none) in zip(play(ours), play(fedavg), strict=True):
        assert torch.equal(a, b) and not personal.any() and none is None
    assert torch.equal(ours.global_params, fedavg.global_params)


def test_fedobp_with_quantile_zero_is_local_only(federation):
    """The clients of a round start from their own models, all but the least score's parameter."""
    everything_personal = make_settings(METHODS["fedobp"], {"quantile": 0.0})
    ours = METHODS["fedobp"](federation, everything_personal)
    alone = METHODS["local-only"](federation)
    for (a, _), (b, _) in zip(play(ours), play(alone), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.state["local"], alone.state["local"], rtol=1e-4, atol=1e-6)
    assert (ours.state["local"] - ours.global_params).abs().max() > 1e-3


def test_gradient_score_waits_for_the_first_round(federation):
    """Eq. 5 needs the last merged and the last trained model; then it ranks their difference."""
    settings = make_settings(METHODS["fedobp"], {"score": "gradient", "quantile": 0.99})
    method = METHODS["fedobp"](federation, settings)
    starts = play(method, COHORTS[:2])
    _, new = method.start(torch.tensor([3]))
    assert not new.any()
    start, personal = method.start(torch.tensor([2]))
    update = (starts[1][0][1] - method.state["local"][2]).abs()
    assert personal.sum() == pytest.approx(0.01 * federation.layout.parameters, abs=1)
    assert update[personal[0]].min() >= update[~personal[0]].max()
    assert torch.equal(start[0][personal[0]], method.state["local"][2][personal[0]])


def test_fisher_score_ranks_the_squared_gradient_at_the_local_model(federation):
    settings = make_settings(METHODS["fedobp"], {"score": "fisher", "quantile": 0.99})
    method = METHODS["fedobp"](federation, settings)
    play(method, COHORTS[:2])
    _, personal = method.start(torch.tensor([2]))
    gradient = federation.trainer.gradient(method.state["local"][2][None], [2])[0].abs()
    assert personal.sum() == pytest.approx(0.01 * federation.layout.parameters, abs=1)
    assert gradient[personal[0]].min() >= gradient[~personal[0]].max()


def test_classifier_only_and_layer_normalization(federation):
    layout = federation.layout
    values = {"classifier_only": "true", "quantile": "0.9"}
    method = METHODS["fedobp"](federation, make_settings(METHODS["fedobp"], values))
    play(method, COHORTS[:1])
    _, personal = method.start(torch.tensor([0]))
    size = 513 * 3
    assert personal[0, layout.layers["classifier"]].sum() == pytest.approx(0.1 * size, abs=1)
    assert not personal[0, : layout.layers["classifier"].start].any()

    values = {"normalization": "layer", "quantile": 0.9999}
    method = METHODS["fedobp"](federation, make_settings(METHODS["fedobp"], values))
    play(method, COHORTS[:1])
    _, personal = method.start(torch.tensor([0]))
    # Every layer's largest score is scaled to one, so every layer keeps at least one.
    assert all(personal[0, columns].any() for columns in layout.layers.values())


@pytest.mark.parametrize("score", ["obp", "saliency"])
def test_scores_averaged_over_the_rounds_a_client_took_part_in(federation, score):
    method = METHODS["fedobp"]
    method = method(federation, make_settings(method, {"ema": 0.5, "score": score}))
    average: dict[int, torch.Tensor] = {}
    local = {i: federation.initial.clone() for i in range(federation.data.clients)}
    size = federation.layout.parameters
    for number, cohort in enumerate(COHORTS, 1):
        clients, server = torch.tensor(cohort), method.global_params.clone()
        method.round = number
        method.start(torch.arange(4))  # looking changes nothing
        start, _ = method.start(clients)
        for k, i in enumerate(cohort):
            change = (local[i] - server)[:size]
            latest = change**2 if score == "obp" else (change * local[i][:size]).abs()
            average[i] = latest if i not in average else 0.5 * latest + 0.5 * average[i]
            tau = torch.quantile(average[i], 0.999)
            expected = server.clone()
            expected[:size] = torch.where(average[i] > tau, local[i][:size], server[:size])
            torch.testing.assert_close(start[k], expected, rtol=0, atol=0)
        trained = method.train(start, clients)
        method.finish(clients, start, trained)
        local |= {i: trained[k].clone() for k, i in enumerate(cohort)}


def test_settings_that_came_later_leave_the_ids_of_older_runs_alone():
    def name(**settings):
        return run_id(RunConfig(settings=settings).resolved(), load_data("digits"))

    assert name() == name(ema=0.0) == name(ema="0") != name(ema=0.5)
    with pytest.raises(UserError, match="ema must lie in"):
        name(ema=1.0)


@pytest.mark.parametrize("normalization", ["none", "tensor", "layer"])
def test_running_statistics_are_scored_and_kept_where_asked(normalization):
    federation = normalized_federation()
    chosen = {"quantile": 0.3, "buffers": True, "normalization": normalization}
    method = METHODS["fedobp"](federation, make_settings(METHODS["fedobp"], chosen))
    clients, layout = torch.tensor([0, 1]), federation.layout
    method.round = 1
    start, _ = method.start(clients)
    method.finish(clients, start, method.train(start, clients))
    local, server = method.state["local"][clients], method.global_params
    start, personal = method.start(clients)
    scores = (local - server) ** 2
    if normalization != "none":
        groups = list(layout.spans.values())
        if normalization == "layer":
            statistics = [s for s in groups if s.start >= layout.parameters]
            groups = [*layout.layers.values(), *statistics]
        for span in groups:
            low, high = scores[:, span].aminmax(dim=1, keepdim=True)
            scores[:, span] = (scores[:, span] - low) / (high - low)
    kept = scores > torch.quantile(scores, 0.3, dim=1, keepdim=True)
    assert kept[:, layout.parameters :].any()
    assert torch.equal(start, torch.where(kept, local, server))
    assert torch.equal(personal, kept[:, : layout.parameters])


def test_buffers_have_no_fisher_score():
    with pytest.raises(UserError, match="no Fisher score"):
        make_settings(METHODS["fedobp"], {"buffers": True, "score": "fisher"})
