"""Costs that are counted against costs that are measured, and against formulas by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.literal import tiny_images
from torch.utils.flop_counter import FlopCounterMode

from fedobp_lib import RunConfig
from fedobp_lib.cli import main
from fedobp_lib.data.partition import Partition
from fedobp_lib.federation import build_federation
from fedobp_lib.methods import METHODS, Method, make_method, register
from fedobp_lib.methods.fedspa import erk_counts
from fedobp_lib.methods.messages import pack
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.paths import data_dir
from fedobp_lib.results.costs import COLUMNS, Network, costs
from fedobp_lib.runs.store import load_data
from fedobp_lib.terminal import WIDTH

SERVER = {"scoring": "server"}
CASES = [
    ("fedavg", {}),
    ("fedper", {}),
    ("fedspa", {}),
    ("fedobp", {}),
    ("fedobp", SERVER),
    ("fedobp", SERVER | {"downlink": "sparse"}),
    ("fedobp", {"score": "gradient"}),
    ("fedobp", SERVER | {"score": "gradient"}),
    ("fedobp", {"score": "fisher"}),
    ("fedobp", {"score": "taylor"}),
    ("fedobp", {"select": "held_out"}),
]
# FFGG's tolerance and FedALA's settled loss are a matter of numbers, so they are fixed here.
MORE = [
    ("apfl", {}),
    ("fedala", {"passes": 1}),
    ("feddpa", {}),
    ("fedrep", {}),
    ("fedselect", {}),
    ("ffgg", {"tolerance": 0.0, "tune_epochs": 4}),
    ("ffgg", {"tolerance": 0.0, "tune_epochs": 4, "variant": "gradient"}),
    ("floco", {"tau": 9}),
    ("flute", {}),
    ("lg-fedavg", {}),
    ("local-only", {}),
]
CLIENTS, COUNTS = 2, (17, 23)


@pytest.fixture
def tiny(own_folders):
    """What makes a run of 150 images of 16x16; its two clients both take part in each round."""
    images = tiny_images()
    data_dir().mkdir(exist_ok=True)
    np.savez(
        data_dir() / "tiny.npz",
        images=images.images, labels=images.labels, is_train=images.is_train,
    )  # fmt: skip
    offsets = np.concatenate([[0], np.cumsum(COUNTS)])
    test = 100 + np.arange(CLIENTS)
    split = Partition(np.arange(offsets[-1]), offsets, test, np.arange(CLIENTS + 1))
    split.save(data_dir() / "split.npz")

    def config(method, model="avgcnn", **settings):
        return RunConfig(
            method=method, model=model, dataset="tiny", partition=str(data_dir() / "split.npz"),
            participation=1.0, local_epochs=2, batch_size=8, rounds=2, settings=settings,
        )  # fmt: skip

    return config


def real_rounds(config, rounds):
    """FLOPs of a round as PyTorch counts them, and serialized bytes (down, up), of one client."""
    resolved = config.resolved()
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the loop back-end then trains in this thread, where FLOPs are seen
    try:
        federation = build_federation(resolved, load_data("tiny"), backend="loop")
        method = make_method(resolved.method, federation, resolved.settings)
        clients, seen = torch.arange(CLIENTS), []
        for number in range(1, rounds + 1):
            method.round = number
            with FlopCounterMode(display=False) as counter:
                start = method.start(clients)[0].clone()
                trained = method.train(start, clients)
            down, up = (
                method.messages_down(clients, start),
                method.messages_up(clients, start, trained),
            )
            with FlopCounterMode(display=False) as more:
                method.finish(clients, start, trained)
            down += method.replies(clients, up)
            flops = counter.get_total_flops() + more.get_total_flops()
            sent = [sum(len(pack(m)) for m in part if m) for part in (down, up)]
            seen.append([x / CLIENTS for x in (flops, *sent)])
        return seen
    finally:
        torch.set_num_threads(before)


def value(frame, number, side, quantity, *parts):
    rows = frame[(frame["round"] == number) & (frame["side"] == side)]
    return rows[(rows["quantity"] == quantity) & rows["part"].isin(parts)]["value"].sum()


def check(config, rounds=2, headers=0):
    """FLOPs agree to 2 %, bytes to 1 %, but for so many of the container's headers."""
    counted = costs([config], rounds=rounds)
    for number, (flops, *sent) in enumerate(real_rounds(config, rounds), 1):
        ours = value(counted, number, "client", "flops", "forward", "backward")
        assert ours == pytest.approx(flops, rel=0.02)
        for part, wire in zip(("down", "up"), sent, strict=True):
            ours = value(counted, number, "client", "bytes", part)
            assert ours == pytest.approx(wire, rel=0.01, abs=headers)


@pytest.mark.parametrize(("method", "settings"), CASES)
@pytest.mark.parametrize("model", ["avgcnn", "resnet18"])
def test_flops_and_bytes_are_those_of_real_rounds(tiny, model, method, settings):
    # In a first round FedOBP has nothing to score and nothing of a client's own to send.
    check(tiny(method, model, **settings), 2 if model == "avgcnn" or "downlink" in settings else 1)


@pytest.mark.parametrize(("method", "settings"), MORE)
def test_flops_and_bytes_of_the_other_methods(tiny, method, settings):
    check(tiny(method, **settings), headers=600)


def test_a_client_trains_once_a_round(tiny):
    """FLOCO's, also in the round that places the clients: its training is its signal."""
    frame = costs([tiny("floco", tau=2)], rounds=2)
    for part in ("forward", "backward", "update"):
        placing, later = (value(frame, number, "client", "flops", part) for number in (1, 2))
        assert placing == value(frame, 1, "outside", "flops", part) > 0
        assert placing == pytest.approx(later, rel=1e-3)  # points are drawn otherwise


def test_each_client_computes_alone_what_a_simulation_computes_once_for_all(tiny):
    """pFedFDA's: the classifier of the global Gaussians, and their eigenvectors."""
    frame, width, classes = costs([tiny("pfedfda")]), 512, 3
    factor, solve = width**3 / 3, 2 * width**2 * classes
    ours = value(frame, 3, "client", "flops", "scoring")
    assert ours == pytest.approx(factor + solve, rel=0.05)  # and a few operations an element
    assert value(frame, 3, "client", "flops", "other") > 9 * width**3


def test_elementwise_work_is_that_of_the_table(tiny):
    """FedOBP's: each number below is how often the table's one operation meets a parameter."""
    frame = costs([tiny("fedobp")])
    size = ParameterLayout.of(build_model("avgcnn", (16, 16, 1), 3, 0)).parameters
    samples = sum(COUNTS) / CLIENTS
    steps = 2 * math.ceil(samples / 8)

    def per(side, part):
        return value(frame, 3, side, "flops", part) / size

    assert per("client", "update") == 4 * steps  # momentum 2, step 2
    assert per("client", "scoring") == pytest.approx(2, abs=1e-3)  # subtract, square
    assert per("client", "threshold") == pytest.approx(4, abs=1e-3)  # select 2, compare, merge
    assert per("server", "aggregation") == pytest.approx(2 * CLIENTS, abs=1e-3)
    assert per("client", "aggregation") == per("client", "other") == 0

    # Subtracting is the client's; the server sums what it gets, divides and adds.
    spa = costs([tiny("fedspa")])
    assert value(spa, 3, "server", "flops", "aggregation") == (CLIENTS + 2) * size
    assert value(spa, 3, "client", "flops", "other") == size

    moved = costs([tiny("fedobp", scoring="server")])
    for part in ("scoring", "threshold"):
        assert value(moved, 3, "client", "flops", part) == 0
        ours = CLIENTS * value(frame, 3, "client", "flops", part)
        assert value(moved, 3, "server", "flops", part) == ours

    still = costs([RunConfig(**{**vars(tiny("fedavg")), "momentum": 0.0})])
    assert value(still, 1, "client", "flops", "update") == 2 * steps * size


def test_sparse_hardware_computes_with_active_parameters_alone(tiny):
    """FedSpa's: layer by layer from the counts of its masks, with conv1 without input gradients."""
    density, samples = 0.3, sum(COUNTS) // CLIENTS
    frame = costs([tiny("fedspa", density=density)])
    layout = ParameterLayout.of(build_model("avgcnn", (16, 16, 1), 3, 0))
    active = erk_counts(layout, density)
    places = {"conv1": 12 * 12, "conv2": 2 * 2, "fc1": 1, "classifier": 1}
    forward = backward = 0
    for layer, each in places.items():
        name = f"{layer}.weight"
        every = layout.spans[name].stop - layout.spans[name].start
        some, inputs = active[name], layer != "conv1"
        forward += 2 * each * samples * some * (2 + 1)  # two epochs, and step 4's gradient
        backward += 2 * each * samples * (2 * (some + inputs * some) + every + inputs * some)
    rows = frame[(frame["round"] == 2) & (frame["side"] == "client")].set_index("part")
    # What a mask takes up starts at the server's value, which may be zero by chance.
    assert rows.loc["forward", "sparse"] == pytest.approx(forward, rel=1e-3)
    assert rows.loc["backward", "sparse"] == pytest.approx(backward, rel=1e-3)
    assert rows.loc["forward", "sparse"] < 0.7 * rows.loc["forward", "value"]


@pytest.mark.parametrize("density", [0.1, 0.6])
def test_sparse_storage_holds_active_parameters_until_step_4_asks_for_a_dense_gradient(
    tiny, density
):
    """FedSpa, a term a tensor: what training holds, and what the gradient of all parameters is."""
    rows = costs([tiny("fedspa", density=density)]).query("quantity == 'memory'")
    peak = rows[(rows["round"] == 2) & (rows["side"] == "client")]["sparse"].item()
    layout = ParameterLayout.of(model := build_model("avgcnn", (16, 16, 1), 3, 0))
    network, bits = Network.of(model, layout, (16, 16, 1)), -(-layout.parameters // 8)
    active = sum(erk_counts(layout, density).values())
    batch = 8 * (network.activations + 4 * 16 * 16)
    training = 4 * active * (1 + 1 + 1 + 1) + bits  # began with, trained, gradient, momentum
    growing = 4 * active + bits + 4 * layout.parameters
    assert peak == pytest.approx(max(training, growing) + batch, rel=1e-3)
    assert (growing > training) == (density == 0.1)  # so the dense gradient rules when few are


def test_sparse_storage_spares_nothing_where_all_is_dense_and_trains(tiny):
    for method in ("fedavg", "fedper", "fedobp", "apfl"):
        rows = costs([tiny(method)]).query("quantity == 'memory' and side == 'client'")
        assert (rows["sparse"] == rows["value"]).all()
    # FedRep trains the classifier, then the body: neither has the other's gradient.
    rows = costs([tiny("fedrep")]).query("quantity == 'memory' and side == 'client'")
    assert (rows["sparse"] < rows["value"]).all()


@pytest.mark.parametrize("trains", ["classifier", "layer4.1", "layer1.0", "bn1", "conv1"])
def test_a_backward_pass_ends_where_nothing_below_trains(trains):
    """As autograd's does, with the layers that do not train frozen."""
    shape, images = (16, 16, 1), 3
    model = build_model("resnet18", shape, 5, 0).train()
    layout = ParameterLayout.of(model)
    mask = torch.zeros(layout.size, dtype=torch.bool)
    for name, parameter in model.named_parameters():
        mask[layout.spans[name]] = name.startswith(f"{trains}.")
        parameter.requires_grad_(name.startswith(f"{trains}."))
    logits = model(torch.rand(images, 1, 16, 16))
    with FlopCounterMode(display=False) as counter:
        logits.sum().backward()
    row = torch.ones(layout.size)
    _, backward = Network.of(model, layout, shape).passes(row, mask)
    assert backward.sparse * images == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_activations_of_avgcnn_by_hand():
    model = build_model("avgcnn", (28, 28, 1), 10, 0)
    network = Network.of(model, ParameterLayout.of(model), (28, 28, 1))
    pooled = [32 * 12 * 12, 64 * 4 * 4]
    numbers = [28 * 28, 32 * 24 * 24, 64 * 8 * 8, 512, 10, *pooled]  # 512: of the classifier
    assert network.activations == 4 * sum(numbers) + 8 * sum(pooled) + 8  # places of maxima; label


def test_memory_and_state(tiny):
    names = ("fedavg", "apfl", "fedper", "fedobp", "fedspa", "fedselect")
    models = {name: costs([tiny(name)]) for name in names}
    model = build_model("avgcnn", (16, 16, 1), 3, 0)
    layout = ParameterLayout.of(model)
    network, row = Network.of(model, layout, (16, 16, 1)), 4 * layout.size
    batch = 8 * (network.activations + 4 * 16 * 16)
    peaks = {m: value(f, 2, "client", "memory", "peak") for m, f in models.items()}
    assert peaks["fedavg"] == peaks["fedper"] == 3 * row + batch
    assert peaks["apfl"] == 6 * row + 4 + batch  # two models, and alpha
    # With the model it began with, and a mask. Its gradient after training has batches as well.
    assert peaks["fedspa"] == peaks["fedselect"] == 4 * row + layout.parameters + batch
    gradient = costs([tiny("fedobp", score="gradient")])
    assert value(gradient, 2, "client", "memory", "peak") == peaks["fedobp"] + row
    kept = {m: value(models[m], 2, "client", "stored", "state") for m in names[:-1]}
    head = 4 * (512 * 3 + 3)
    of_nine = {"partition": None, "clients": 9, "participation": 0.1}
    floco = costs([RunConfig(**vars(tiny("floco", tau=2)) | of_nine)], samples=20)
    model, others = value(floco, 1, "server", "stored", "state") - 9 * 80, 9 - 1
    ends = 4 * 20 * 512 * 3
    uploads = value(floco, 1, "client", "bytes", "up") + others * ends  # to place them
    assert value(floco, 1, "server", "memory", "peak") == 2 * model + uploads
    bits = -(-layout.parameters // 8)
    assert kept == {
        "fedavg": 0, "fedper": head, "fedobp": row, "apfl": row + 4, "fedspa": bits,
    }  # fmt: skip
    assert value(models["fedavg"], 2, "server", "stored", "state") == row
    there = costs([tiny("fedobp", scoring="server")])
    assert value(there, 2, "client", "stored", "state") == 0
    assert value(there, 2, "server", "stored", "state") == (1 + CLIENTS) * row


def test_what_a_client_keeps_is_that_of_its_round(tiny):
    """FedSelect's parameters of a client's own: each row of theirs is four bytes, and the mask."""
    frame = costs([tiny("fedselect", rate=0.25, limit=0.5)])
    layout = ParameterLayout.of(build_model("avgcnn", (16, 16, 1), 3, 0))
    weights = sum(
        shape.numel() for name, shape in zip(layout.names, layout.shapes, strict=True)
        if name.endswith("weight")
    )  # fmt: skip
    for number, share in enumerate((0.25, 0.4375, 0.5, 0.5), 1):
        kept = value(frame, number, "client", "stored", "state")
        assert kept == pytest.approx(4 * share * weights + layout.parameters / 8, rel=1e-3)


def test_every_method_has_costs_and_none_is_negative(tiny):
    frame = costs([tiny(name) for name in METHODS])
    assert list(frame.columns) == COLUMNS
    assert (frame["value"] >= 0).all() and np.isfinite(frame["value"]).all()
    flops = frame[frame["quantity"] == "flops"]
    assert (flops["sparse"] <= flops["value"]).all() and (flops["sparse"] >= 0).all()
    clients = frame[frame["side"] == "client"]
    of_models = flops[(flops["side"] == "client") & flops["part"].isin(["forward", "backward"])]
    trains = of_models.groupby("method")["value"].min() > 0
    assert set(trains[~trains].index) == {"majority-class"}
    sends = clients[clients["quantity"] == "bytes"].groupby("method")["value"].min() > 0
    assert set(sends[~sends].index) == {"majority-class", "local-only"}
    # Only FLOCO has to do with clients outside the cohort, and only once.
    outside = frame[frame["side"] == "outside"]
    assert set(outside["method"]) == {"floco"} and outside["round"].nunique() == 1


def test_a_new_method_has_costs_without_a_word_about_them(tiny):
    @register("doubled")
    class Doubled(Method):
        """Trains twice, and keeps what it has."""

        title, source = "Doubled", "a test"

        def __init__(self, federation, settings=None):
            super().__init__(federation, settings)
            self.state["local"] = self.bank()

        def train(self, start, clients, purpose=2):
            return super().train(super().train(start, clients), clients)

        def keep(self, clients, start, trained):
            self.state["local"][clients] = trained

    try:
        one, two = (costs([tiny(name)]) for name in ("fedavg", "doubled"))
    finally:
        METHODS.pop("doubled")
    for part in ("forward", "backward", "update"):
        ours, theirs = (value(f, 1, "client", "flops", part) for f in (two, one))
        assert ours == 2 * theirs > 0
    assert value(two, 1, "client", "stored", "state") == value(two, 1, "client", "bytes", "down")


def test_the_command_prints_a_table_that_fits(tiny, capsys):
    words = "costs --samples 20 --method fedobp fedspa --local-epochs 1 --dataset tiny digits"
    assert main([*words.split(), "--set", "density=0.2"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= WIDTH
    for text in ("avgcnn on tiny, 20 samples", "avgcnn on digits", "scoring=server\n",
                 "scoring=server downlink=sparse", "density=0.2"):  # fmt: skip
        assert text in out
    text = "costs --samples 20 --method fedavg --protocol text --dataset tiny --momentum 0.5"
    assert main(text.split()) == 0 and "text" in (out := capsys.readouterr().out)
    assert "momentum 0.5" in out and max(map(len, out.splitlines())) <= WIDTH
    fedper = ["costs", "--samples", "20", "--method", "fedper"]
    assert main([*fedper, "--json"]) == 0
    frame = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert list(frame.columns) == COLUMNS and set(frame["method"]) == {"fedavg", "fedper"}
    assert main([*fedper, "--csv"]) == 0
    assert capsys.readouterr().out.startswith(",".join(COLUMNS))


def test_runs_that_differ_are_told_apart_and_the_same_run_is_counted_once(tiny, capsys):
    runs = [tiny("fedavg")]
    for changes in ({"local_epochs": 4}, {"batch_size": 4}, {"momentum": 0.0}, {"alpha": 9.0}):
        runs.append(RunConfig(**vars(runs[0]) | changes))
    frame = costs([*runs, *runs])
    names = COLUMNS[: COLUMNS.index("side")]
    assert len(frame[names].drop_duplicates()) == 4 * len(runs)
    assert not frame.duplicated([*names, "side", "quantity", "part"]).any()

    words = "costs --samples 20 --dataset tiny --method fedper --local-epochs 1 2 --clients 9"
    assert main(words.split()) == 0
    tables = capsys.readouterr().out.split("avgcnn on tiny")[1:]
    gigaflops = [float(table.split("fedavg")[1].split()[0]) for table in tables]
    assert gigaflops[1] == pytest.approx(2 * gigaflops[0], abs=0.0015)
    assert "1 of 9 clients a round, 2 epochs" in tables[1]
    words = "costs --samples 9 --method fedobp --dataset tiny --set ema=0 ema=0.0 scoring=client"
    assert main(words.split()) == 0
    assert capsys.readouterr().out.count("fedobp") == 1


@pytest.mark.parametrize(
    ("chosen", "server"),
    [
        ("select=knee", ["scoring=server select=knee", "downlink=sparse select=knee"]),
        ("merge=soft", ["scoring=server merge=soft"]),
        ("select=held_out", []),
        ("score=taylor", []),
    ],
)
def test_what_a_server_cannot_do_is_counted_on_the_client_alone(tiny, capsys, chosen, server):
    words = "costs --samples 20 --method fedobp --local-epochs 1 --dataset tiny --set"
    assert main([*words.split(), chosen]) == 0
    out = capsys.readouterr().out
    assert chosen in out and out.count("\nfedobp ") == 1 + len(server)
    assert all(text in " ".join(out.split()) for text in server)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dataset mnist", "say --samples N"),
        ("--dataset minst", "did you mean 'mnist'"),
        ("--method fedopb", "did you mean 'fedobp'"),
        ("--samples 0", "1 to 100000 samples"),
        ("--samples 99999999999999999999", "1 to 100000 samples"),
        ("--json --csv", "not both"),
        ("--set quantile", "NAME=VALUE"),
        ("--model resnet", "did you mean 'resnet18'"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    assert main(["costs", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("fedobp: ") and err.count("\n") == 1 and message in err
