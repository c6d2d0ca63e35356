"""FedSpa's claims: what clients hold, what they send, the gradient, and who is ahead."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers.fake_runs import fake_run
from helpers.literal import module_of, row_of, tiny_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedobp_lib import RunConfig, figures, run_all
from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS
from fedobp_lib.methods.fedspa import FedSpa, Masked, erk_counts
from fedobp_lib.methods.messages import nbytes
from fedobp_lib.paths import runs_dir
from fedobp_lib.results.claims.about_fedspa import CLAIMS, fixed_number
from fedobp_lib.results.claims.on_frames import checked_claims
from fedobp_lib.results.costs import costs
from fedobp_lib.results.sparse_models import (
    byte_table,
    client_megabytes,
    curves,
    density_table,
    standings,
    trails,
)
from fedobp_lib.results.sparse_rounds import (
    HELD,
    active_frame,
    active_rows,
    gradient_frame,
    gradient_norms,
    most_active,
    objective_gradient,
    slope,
)
from fedobp_lib.runs.sparse_models import (
    BESIDE,
    DENSITIES,
    PERSONALIZED,
    named,
    sparse_runs,
    stepped,
)
from fedobp_lib.simulation import simulate

TINY = {"clients": 4, "participation": 0.5, "rounds": 3, "local_epochs": 1, "batch_size": 16,
        "min_samples": 5, "eval_after": "never"}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only lose by a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(backend="loop", method="fedspa", **own):
    """A simulation of 150 images of 16x16."""
    config = RunConfig(method=method, alpha=1.0, settings=own, **TINY)
    return simulate(config, tiny_images(), backend=backend)


def over_budget(rows):
    """Whether any client of any round holds more than it may, row by row."""
    return [
        any(row[part] > row["density"] * tiny().layout.parameters for part in HELD)
        for row in rows.to_dict("records")
    ]


@pytest.mark.parametrize("backend", ["loop", "batched"])
@given(
    density=st.sampled_from([0.03, 0.1, 0.2, 0.5, 0.8, 1.0]) | st.floats(0.02, 1.0),
    rate=st.sampled_from([0.0, 0.5, 1.0]),
    same_masks=st.booleans(),
)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_client_holds_more_than_its_density_in_any_round(backend, density, rate, same_masks):
    simulation = tiny(backend, density=density, prune_rate=rate, same_masks=same_masks)
    rows = active_rows(simulation)
    assert rows["round"].value_counts().to_dict() == {1: 2, 2: 2, 3: 2}
    limit = density * simulation.layout.parameters
    for row in rows.to_dict("records"):  # every round, every client
        for part in HELD:
            assert row[part] <= limit
        assert row["received"] == row["kept"] == sum(simulation.method.counts.values())
        assert row["trained"] >= 0.99 * row["kept"]  # and it does train them
    assert fixed_number(most_active(rows)).holds
    assert "finish" not in vars(simulation.method)  # it is as it was


def unmasked_start(self, clients):
    return self.global_params.repeat(len(clients), 1), self.state["masks"][clients]


def grown_only(self, masks, trained, gradients):
    return masks | (gradients.abs() > gradients.abs().median())


def sends_everything(self, clients, start):
    return [{"model": self.global_params} for _ in clients]


FAULTS = {
    "start": (FedSpa, "start", unmasked_start),
    "trained": (Masked, "mask", lambda self, given, phase: None),
    "kept": (FedSpa, "exchange", grown_only),
    "received": (FedSpa, "messages_down", sends_everything),
}


@pytest.mark.parametrize("backend", ["loop", "batched"])
@pytest.mark.parametrize("part", FAULTS)
def test_a_planted_fault_is_found_where_it_is(monkeypatch, part, backend):
    monkeypatch.setattr(*FAULTS[part])
    frame = most_active(active_rows(tiny(backend, density=0.2)))
    assert (frame[part] > frame["budget"]).any()
    assert fixed_number(frame).holds is False


def test_a_mask_that_shrinks_is_no_fixed_number(monkeypatch):
    def fewer(self, masks, trained, gradients):
        return masks & (trained.abs() > 0.01)

    monkeypatch.setattr(FedSpa, "exchange", fewer)
    frame = most_active(active_rows(tiny(density=0.2)))
    assert (frame[HELD].max(axis=1) <= frame["budget"]).all()
    finding = fixed_number(frame)
    assert finding.holds is False and "change in size" in finding.measured


def test_only_fedspa_has_masks_to_look_at():
    with pytest.raises(UserError, match="only FedSpa has sparse masks, not FedAvg"):
        active_rows(tiny(method="fedavg"))
    with pytest.raises(UserError, match="not FedAvg"):
        objective_gradient(tiny(method="fedavg"))


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_the_gradient_is_that_of_the_mean_of_the_masked_losses(backend):
    """Module by module with autograd, and along a line by differences of the losses."""
    simulation = tiny(backend, density=0.3, same_masks=False)
    simulation.step()
    simulation.step()
    method, data = simulation.method, simulation.data
    federation, size = method.federation, simulation.layout.parameters
    before = {name: value.clone() for name, value in method.state.items()}
    ours = objective_gradient(simulation)
    assert all(torch.equal(method.state[name], value) for name, value in before.items())
    total = torch.zeros(size)
    for client in range(data.clients):
        keep = method.state["masks"][client]
        model = module_of(federation, method.global_params * keep)
        images, labels = data.train(client)
        F.cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.grad)
        total += keep * row_of(federation, model) / data.clients
    assert (ours - total).norm() <= 1e-4 * total.norm()

    def objective(server):
        everyone = torch.arange(data.clients)
        rows = torch.where(method.state["masks"], server, 0)
        return simulation.trainer.losses(rows, everyone.tolist()).mean().item()

    step = 0.02 * ours / ours.norm()
    server = method.global_params
    along = (objective(server + step) - objective(server - step)) / 0.04
    assert along == pytest.approx(ours.norm().item(), rel=0.02)


def test_norms_are_those_at_the_beginning_of_rounds():
    frame = gradient_norms(tiny(density=0.5), every=2)
    assert frame["round"].tolist() == [1, 3]
    simulation = tiny(density=0.5)
    for row in frame.to_dict("records"):
        while simulation.round < row["round"] - 1:
            simulation.step()
        assert row["norm"] == pytest.approx(objective_gradient(simulation).norm().item(), rel=1e-4)
    assert (frame["squared"] == frame["norm"] ** 2).all()
    assert frame["mean"].tolist() == pytest.approx([frame["squared"][0], frame["squared"].mean()])
    constant = (frame["line"] * np.sqrt(frame["round"])).tolist()
    assert constant == pytest.approx([frame["mean"][1] * math.sqrt(3)] * 2)


@pytest.mark.parametrize(("power", "verdict"), [(-0.6, "holds"), (-0.4, "does not hold")])
def test_the_rate_is_read_from_the_second_half(power, verdict):
    rounds = np.arange(1, 61, 2.0)
    # The first half rises, and decides nothing.
    mean = np.where(rounds > 30, 7 * rounds**power, rounds)
    frame = pd.DataFrame({"variant": "fixed masks", "round": rounds.astype(int), "mean": mean})
    assert slope(frame) == pytest.approx(power)
    claim = next(c for c in CLAIMS if c.id == "rate-fixed-masks")
    table = checked_claims([claim], {"gradients": frame})
    assert table["verdict"].item() == verdict
    assert table["measured"].item() == f"slope {power:.2f} up to round 59"


@pytest.mark.parametrize("density", [0.1, 0.4, 0.9])
def test_counted_bytes_are_the_density_of_a_model_and_the_masks_changes(density):
    """Against the sizes of the masks, and what of two masks differs in a real round."""
    config = RunConfig(method="fedspa", settings={"density": density})
    counted = costs([config]).query("quantity == 'bytes' and side == 'client'")
    counted = counted.set_index(["round", "part"])["value"]
    simulation = tiny(density=density, same_masks=False)
    layout = simulation.layout
    tensors = len(layout.names)
    dense = costs([RunConfig(method="fedavg")]).query("part == 'down' and side == 'client'")
    dense = dense["value"].iloc[0]
    bits = math.ceil(dense / 4 / 8)
    for number in (1, 2, 3, 4):
        down, up = counted[number, "down"], counted[number, "up"]
        assert density * dense - 4 * 8 <= down <= density * dense
        assert 0 < up - down <= bits
    still = {**config.settings, "prune_rate": 0.0}
    fixed = costs([RunConfig(method="fedspa", settings=still)])
    ways = fixed.query("quantity == 'bytes' and side == 'client' and round == 4")["value"]
    assert ways.nunique() == 1  # without changes nothing but the active parameters travels
    # And so in a round that is really taken, message by message.
    seen = []
    method, finish = simulation.method, simulation.method.finish

    def noted(clients, start, trained):
        before = method.state["masks"][clients].clone()
        sent = method.messages_up(clients, start, trained)
        finish(clients, start, trained)
        changed = (before != method.state["masks"][clients]).sum(1).tolist()
        active = sum(erk_counts(layout, density).values())
        for message, count in zip(sent, changed, strict=True):
            places = min(4 * count, math.ceil(layout.parameters / 8))
            seen.append((nbytes(message), 4 * active + places))
            assert density * 4 * layout.parameters - 4 * tensors <= 4 * active

    method.finish = noted
    simulation.run(progress=False)
    assert len(seen) == 6 and all(ours == theirs for ours, theirs in seen)


def test_the_table_of_bytes_takes_them_apart():
    lines = {f"fedspa {density:g}": [1.0] * 4 for density in DENSITIES}
    table = byte_table(faked(lines | {"fedavg": [1.0] * 4}, seeds=(0, 1))).set_index("density")
    assert list(table.index) == list(DENSITIES)
    assert (table["dense"] == 4 * 582026).all()
    assert (table["share"] == table.index * table["dense"]).all()
    assert (table["down"] <= table["share"]).all() and (table["down"] > table["share"] - 32).all()
    assert (table["up"] == table["down"] + table["mask"]).all()
    assert table.loc[1.0, "mask"] == 0 and (table.loc[:0.8, "mask"] > 0).all()


FAKED = {"clients": 20, "rounds": 4, "eval_every": 1}


def faked(accuracies, seeds=(0,)):
    """Runs of four evaluated rounds; lines named as `named` does."""
    made = []
    for line, values in accuracies.items():
        method, _, density = line.partition(" ")
        own = {"density": float(density)} if density else {}
        for seed in seeds:
            shifted = [value + seed for value in values]
            config = FAKED | {"method": method, "settings": own, "seed": seed}
            made.append(fake_run(runs_dir(), shifted, **config))
    return made


LINES = {
    "fedspa 0.5": [20.0, 50.0, 77.0, 80.0],
    "fedspa 1": [30.0, 60.0, 81.0, 82.0],
    "fedavg": [40.0, 60.0, 85.0, 90.0],
    "fedper": [70.0, 71.0, 72.0, 73.0],
    "apfl": [10.0, 20.0, 30.0, 40.0],
    "fedrep": [60.0, 70.0, 74.0, 79.0],
    "lg-fedavg": [75.0, 75.0, 75.0, 75.0],
}


def test_accuracy_against_density_stands_beside_fedavgs_costs():
    table = density_table(faked(LINES, seeds=(0, 1))).set_index("density")
    assert table.index.tolist() == [0.5, 1.0] and (table["seeds"] == 2).all()
    assert table["mean"].tolist() == [80.5, 82.5] and (table["fedavg"] == 90.5).all()
    model = 4 * 582026 / 1e6
    assert table.loc[1.0, "megabytes"] == pytest.approx(2 * model)
    # All places at most as bits, one of 32 of the model, one way.
    assert 0.5 <= table.loc[0.5, "relative_megabytes"] <= 0.5 + 1 / 64
    assert table.loc[1.0, "relative_gflop"] > 1  # step 4's gradient
    for name in ("gflop", "memory"):
        ours, dense = (table.loc[0.5, f"{n}"] for n in (f"{name}_sparse", name))
        assert ours < dense
        assert table.loc[0.5, f"relative_{name}"] == pytest.approx(
            dense / table.loc[1.0, name] * table.loc[1.0, f"relative_{name}"]
        )
    without = density_table(faked({"fedspa 0.5": [1.0] * 4}))
    assert without["fedavg"].isna().all() and without["std"].isna().all()


def test_megabytes_add_up_over_rounds_and_are_those_of_a_client_on_average():
    sent = client_megabytes(RunConfig(method="fedavg", rounds=30))
    each = (2 * 4 * 582026 + 8) / 1e6 * 4 / 20  # 4 of 20 clients a round
    assert sent.tolist() == pytest.approx([each * number for number in range(1, 31)])
    assert (client_megabytes(RunConfig(method="local-only", rounds=3)) == 0).all()


def test_standings_are_at_equal_marks_and_equal_bytes():
    frame = trails(faked(LINES, seeds=(0, 2)))
    ours = curves(frame).query("line == 'fedspa 0.5'")
    assert ours["mean"].tolist() == [21, 51, 78, 81] and (ours["seeds"] == 2).all()
    assert (ours["high"] - ours["low"]).tolist() == pytest.approx([2 * math.sqrt(2)] * 4)
    table = standings(frame).set_index("line")
    assert table.index[0] == "fedavg" and table.loc["fedavg", "title"] == "FedAvg"
    # 95 % of 81 is 76.95.
    reached = {"fedspa 0.5": 3, "fedspa 1": 3, "fedavg": 3, "fedrep": 4}
    assert table["rounds"].dropna().to_dict() == reached
    # Twice the bytes a round: half of the rounds, and a little for the mask.
    assert table.loc["fedavg", "same_bytes"] == 61 and table.loc["fedavg", "best"] == 91
    assert table.loc["fedspa 0.5", "same_bytes"] == table.loc["fedspa 0.5", "best"] == 81
    assert table.loc["lg-fedavg", "same_bytes"] == 76
    assert standings(trails(faked({"fedper": [1.0] * 4}))).empty


AFTER = {"fedspa 0.5": 90.0, "fedper": 89.0, "apfl": 88.0, "fedrep": 87.0, "lg-fedavg": 86.0}


def verdicts(lines, after=AFTER):
    """Of the claims about accuracy; `after` is that after training, from the last quarter on."""
    frame = trails(faked(lines))
    last = 4 * frame["round"] > 3 * frame["round"].max()
    frame["after"] = frame["line"].map(after).where(last, 99.0 - frame["line"].map(after))
    claims = [claim for claim in CLAIMS if claim.evidence == "standings"]
    told = checked_claims(claims, {"standings": standings(frame)})
    return told.set_index("id")["verdict"].to_dict()


def test_one_rival_that_is_ahead_settles_a_claim_and_all_must_be_run_for_it():
    names = ("higher-accuracy", "higher-accuracy-after", "same-bytes", "faster")
    every = dict.fromkeys(names, "holds")
    assert verdicts(LINES) == every
    one = dict.fromkeys(("higher-accuracy", "faster"), "does not hold")
    assert verdicts(LINES | {"fedrep": [60.0, 77.0, 79.0, 81.0]}) == every | one
    one = {"same-bytes": "does not hold"}
    assert verdicts(LINES | {"fedavg": [60.0, 81.0, 81.0, 81.0]}) == every | one
    one = {"higher-accuracy-after": "does not hold"}
    assert verdicts(LINES, AFTER | {"apfl": 90.5}) == every | one
    few = {name: LINES[name] for name in ("fedspa 0.5", "fedper", "fedavg")}
    assert verdicts(few) == dict.fromkeys(names, "undecided")
    assert verdicts({"fedavg": LINES["fedavg"]}) == dict.fromkeys(names, "not run")


def test_cheapness_is_that_of_the_default_density():
    table = pd.DataFrame({"density": [0.2, 0.5], "relative_gflop": [0.3, 1.2],
                          "relative_gflop_sparse": [1.1, 0.9]})  # fmt: skip
    claims = [c for c in CLAIMS if c.id in ("cheap-gflop", "cheap-gflop-sparse")]
    told = checked_claims(claims, {"densities": table}).set_index("id")
    assert told["verdict"].to_dict() == {
        "cheap-gflop-sparse": "holds", "cheap-gflop": "does not hold",
    }  # fmt: skip
    assert told.loc["cheap-gflop", "measured"] == "times FedAvg's: 0.30 at 0.2, 1.20 at 0.5"


def test_runs_are_every_density_and_those_beside():
    lines = [named(config) for config in sparse_runs("quick", seeds=[0])]
    assert lines[:5] == [f"fedspa {density:g}" for density in DENSITIES]
    assert tuple(lines[5:]) == BESIDE and set(PERSONALIZED) < set(METHODS)
    asked = sparse_runs("paper", datasets=["mnist"], methods=["fedspa", "fedper"], seeds=[1])
    assert [named(config) for config in asked][5:] == ["fedper"]
    assert {(c.alpha, c.eval_every, c.eval_after) for c in asked} == {(0.1, 10, "never")}


def test_the_whole_of_it_at_smoke():
    """Frames of real runs, every claim with a verdict, every figure drawn."""
    configs = sparse_runs("smoke", methods=["fedavg", "fedper"], rounds=2)
    results = run_all(configs, "cpu", progress=False)
    small = stepped("smoke", 4)
    densities, runs = density_table(results), trails(results)
    history = results[0].history.query("stage == 'after' and average == 'pooled'")
    assert runs["after"][:2].tolist() == history["accuracy"].tolist()
    lines = curves(runs)
    active = active_frame(small, [0.2, 1.0], "cpu")
    gradients = gradient_frame(small, 1, "cpu")
    assert len(active) == 8 and active["density"].unique().tolist() == [0.2, 1.0]
    assert gradients["variant"].nunique() == 2 and (gradients["norm"] > 0).all()
    for plot, frame, axes in (
        (figures.plot_densities, densities, 2), (figures.plot_gradients, gradients, 2),
        (figures.plot_bytes, lines, 1),
    ):  # fmt: skip
        assert len(plot(frame).axes) == axes
    drawn = figures.plot_bytes(lines).axes[0].get_legend_handles_labels()[1]
    assert drawn == ["FedSpa 0.2", "FedSpa 0.5", "FedAvg", "FedPer"]
    evidence = {"active": active, "densities": densities, "gradients": gradients,
                "standings": standings(runs)}  # fmt: skip
    table = checked_claims(CLAIMS, evidence)
    assert table["id"].is_unique and (table["verdict"] != "not run").all()
    assert table.set_index("id").loc["fixed-number", "verdict"] == "holds"
