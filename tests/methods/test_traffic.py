"""What is sent: enough to take part, no more than is stated, and as many bytes as are counted."""

import pytest
import torch
from helpers.batchnorm import normalized_federation
from helpers.literal import CLIENTS, COHORTS, make, play, tiny_federation

from fedobp_lib.methods import METHODS, Method, scores_on_server
from fedobp_lib.methods.messages import bits, nbytes, pack, packed, unpack, unpacked

SERVER = {"scoring": "server"}
SPLIT = [(name, {}) for name, method in METHODS.items() if method.finish is Method.finish]
SPLIT += [("fedobp", SERVER), ("fedobp", SERVER | {"downlink": "sparse"})]
EVERY = [(name, {}) for name in METHODS] + [
    *SPLIT[-2:],
    ("fedobp", {"score": "gradient"}),
    ("fedala", {"everyone": True}),
    ("ffgg", {"variant": "gradient"}),
    ("flute", {"benchmark": True}),
    ("pfedfda", {"mean_weights": "classes"}),
    ("fedspa", {"density": 0.9, "same_masks": False}),
]


def send(messages):
    """Messages at the other end of a wire."""
    return [unpack(pack(message)) for message in messages]


def rounds(method):
    """(cohort, down, up, back, outside) of every round, as the simulation runs them."""
    for number, cohort in enumerate(COHORTS, 1):
        clients = torch.tensor(cohort)
        others = torch.tensor([c for c in range(CLIENTS) if c not in cohort])
        method.round = number
        start = method.start(clients)[0].clone()
        down = send(method.messages_down(clients, start))
        trained = method.train(start, clients)
        up = send(method.messages_up(clients, start, trained))
        outside = method.messages_outside(others)
        method.finish(clients, start, trained)
        yield clients, down, up, send(method.replies(clients, up)), outside


@pytest.mark.parametrize(("name", "settings"), SPLIT)
@pytest.mark.parametrize("federation", [tiny_federation, normalized_federation])
def test_messages_are_enough_to_take_part(federation, name, settings):
    together = play(make(name, federation(epochs=1), **settings))
    server = make(name, federation(epochs=1), **settings)
    clients = [make(name, federation(epochs=1), **settings) for _ in range(CLIENTS)]
    on_server = scores_on_server(server)
    for client in clients:  # knows of the server's model what it is sent
        client.global_params[client.travels] = torch.nan
    # APFL sums up a row, which one row alone does in another order.
    most = 1e-6 if name == "apfl" else 0.0
    for number, (cohort, (expected, _)) in enumerate(zip(COHORTS, together, strict=True), 1):
        numbers, rows = torch.tensor(cohort), []
        server.round = number
        start = server.start(numbers)[0].clone()
        for place, message in enumerate(send(server.messages_down(numbers, start))):
            there, one = clients[cohort[place]], numbers[place, None]
            there.round = number
            if on_server:
                there.state.clear()  # it keeps nothing
            began = there.receive(one, message)[0].clone()
            torch.testing.assert_close(began[0], expected[place], rtol=most, atol=most)
            trained = there.train(began, one)
            (up,) = send(there.messages_up(one, began, trained))
            rows.append(up.get("model", trained[0, :0]))
            if rows[-1].numel():
                assert up["samples"] == server.federation.data.train_counts[one]
            if not on_server:
                there.keep(one, began, trained)
        if on_server:
            server.keep(numbers, start, torch.stack(rows))
        server.aggregate(numbers, torch.stack(rows))


@pytest.mark.parametrize(("name", "settings"), EVERY)
@pytest.mark.parametrize("federation", [tiny_federation, normalized_federation])
def test_asking_what_is_sent_changes_nothing(federation, name, settings):
    asked, alone = (make(name, federation(epochs=1), **settings) for _ in range(2))
    list(rounds(asked))
    play(alone)
    assert asked.state.keys() == alone.state.keys()
    for key, value in asked.state.items():
        assert torch.equal(value, alone.state[key]), key


def expected(name, settings, layout, active):
    """Bytes (down, up) of a client's round after its first, by each method's paper.

    Args:
        active: FedSpa's active parameters.
    """
    head = layout.layers["classifier"].stop - layout.layers["classifier"].start
    weight = layout.spans["classifier.weight"]
    weight = weight.stop - weight.start
    classes, size = head - weight, layout.size
    width, count = weight // classes, 8
    whole, body, points = 4 * size, 4 * (size - head), 4 * 20 * weight
    gaussians = 4 * (classes * width + width * (width + 1) // 2)
    table = {
        "fedavg": (whole, whole + count), "apfl": (whole, whole + count),
        "fedala": (whole, whole + count), "feddpa": (whole, whole + count),
        "fedobp": (whole, whole + count),
        "fedper": (body, body + count), "fedrep": (body, body + count),
        "ffgg": (body, body + count), "lg-fedavg": (4 * head, 4 * head + count),
        "local-only": (0, 0), "majority-class": (0, 0),
        "floco": (whole - 4 * weight + points, whole - 4 * weight + points + count),
        "flute": (whole, whole + count + -(-classes // 8)),
        "pfedfda": (body + gaussians, body + gaussians + count),
        "fedspa": (4 * active, 4 * active),
    }  # fmt: skip
    down, up = table[name]
    if settings.get("mean_weights"):
        up += 8 * classes
    return down, up


@pytest.mark.parametrize(("name", "settings"), EVERY)
@pytest.mark.parametrize("federation", [tiny_federation, normalized_federation])
def test_no_more_is_sent_than_each_paper_needs(federation, name, settings):
    method = make(name, federation(epochs=1), **settings)
    layout = method.federation.layout
    seen: set[int] = set()
    for clients, down, up, back, outside in rounds(method):
        for place, client in enumerate(clients.tolist()):
            got, sent = nbytes(down[place]) + nbytes(back[place]), nbytes(up[place])
            if name == "fedselect":
                own = layout.size - layout.parameters  # statistics never leave their client
                joins = unpacked(up[place]["joins"], layout.parameters).sum().item()
                shared = got // 4 - joins
                assert joins > 0 and got % 4 == 0 and shared <= layout.size - own
                assert sent == 4 * shared + up[place]["joins"].nbytes
                continue
            active = down[place]["model"].numel() if name == "fedspa" else 0
            most_down, most_up = expected(name, settings, layout, active)
            if name == "fedspa":
                buffers = layout.size - layout.parameters
                assert active == sum(method.counts.values()) + buffers
                most_up += up[place]["mask"].nbytes
                assert up[place]["mask"].nbytes <= -(-layout.parameters // 8)
            if settings.get("downlink") == "sparse":
                most_down += 8 * down[place]["columns"].numel()
                differs = down[place]["values"] != down[place]["model"][down[place]["columns"]]
                assert differs.all()
            if settings.get("benchmark") and client not in seen:  # comes with a head
                most_down += back[place]["head"].nbytes
            assert (got, sent) == (most_down, most_up)
        seen.update(clients.tolist())
        for messages in outside:
            assert (sum(map(nbytes, messages)) > 0) == (
                bool(settings.get("everyone") and messages is outside[0])
            )


def kept(name, settings, layout):
    """Bytes that a client keeps, the server of each client, and besides, by each method's paper."""
    head = layout.layers["classifier"].stop - layout.layers["classifier"].start
    weight = layout.spans["classifier.weight"]
    weight = weight.stop - weight.start
    width = weight // (head - weight)
    whole, body, bits = 4 * layout.size, 4 * (layout.size - head), -(-layout.parameters // 8)
    gaussians = 4 * (weight + width * (width + 1) // 2)
    simplex = whole - 4 * weight + 4 * 20 * weight
    mine = whole * (1 + (settings.get("score") == "gradient"))
    number, flag = 4, 1
    return {
        "fedavg": (0, 0, whole), "apfl": (whole + number, 0, whole),
        "fedala": (2 * 4 * head + flag, 0, whole), "feddpa": (whole, 0, whole),
        "fedobp": (0, mine, whole) if "scoring" in settings else (mine, 0, whole),
        "fedper": (4 * head, 0, body), "fedrep": (4 * head, 0, body),
        "ffgg": (4 * head, 0, body), "lg-fedavg": (body, 0, 4 * head),
        "local-only": (whole, 0, 0), "majority-class": (0, 0, 0),
        "floco": (0, 4 * 20, simplex),
        "flute": (4 * head + flag, 0, whole if settings else body),
        "pfedfda": (0, 0, body + gaussians), "fedspa": (bits, bits, whole),
        "fedselect": (None, bits, 4 * layout.parameters),
    }[name]  # fmt: skip


@pytest.mark.parametrize(("name", "settings"), EVERY)
@pytest.mark.parametrize("federation", [tiny_federation, normalized_federation])
def test_no_more_is_kept_than_each_paper_needs(federation, name, settings):
    method = make(name, federation(epochs=1), **settings)
    layout = method.federation.layout
    play(method)
    client, of_each, server = kept(name, settings, layout)
    if client is None:  # FedSelect: what is its own, running statistics included, and which it is
        own = method.start(torch.tensor([1]))[1].sum().item()
        client = of_each + 4 * (own + layout.size - layout.parameters)
    assert nbytes(method.kept_by_client(1)) == client
    assert nbytes(method.kept_for_client(1)) == of_each
    assert nbytes(method.kept_by_server()) == server


def test_floco_hears_from_everybody_once():
    method = make("floco", tiny_federation(), tau=3)
    weight = method.weight.stop - method.weight.start
    for number, (_, down, _, _, (to, of)) in enumerate(rounds(method), 1):
        assert all(("point" in message) == (number == 3) for message in down)
        assert [nbytes(m) for m in of] == [4 * 20 * weight * (number == 2)] * len(of)
        assert all((nbytes(m) > 0) == (number == 2) for m in to)
    # They send what the simulation takes from their training.
    method = make("floco", tiny_federation(), tau=2)
    method.round = 1
    _, sent = method.messages_outside(torch.arange(CLIENTS))
    for cohort in (torch.tensor(COHORTS[0]), torch.arange(CLIENTS)):
        start, _ = method.start(cohort)
        signals = method.signals(cohort, start, method.train(start, cohort))
        assert torch.equal(torch.stack([m["ends"] for m in sent]), signals)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.03, 0.04, 0.5, 1.0])
def test_a_mask_takes_the_fewer_bytes_of_two_ways(share):
    mask = torch.rand(1001, generator=torch.Generator().manual_seed(0)) < share
    sent = packed(mask)
    assert sent.nbytes == min(4 * int(mask.sum()), 126)
    assert torch.equal(unpacked(sent, 1001), mask)
    assert torch.equal(unpacked(bits(mask), 1001), mask)


def test_what_a_client_keeps_and_what_it_is_sent_make_its_model():
    """FedSelect: nothing of its start is anywhere else."""
    method = make("fedselect", tiny_federation())
    play(method)
    clients = torch.tensor([1])
    start, mask = method.start(clients)
    kept, sent = method.kept_by_client(1), method.messages_down(clients, start)[0]
    known = unpacked(kept["mask"], len(mask[0]))
    assert torch.equal(known, mask[0])
    rebuilt = torch.empty_like(start[0])
    rebuilt[known], rebuilt[~known] = kept["local"], sent["model"]
    assert torch.equal(rebuilt, start[0])


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_what_is_kept_is_not_negative_and_not_more_than_the_state(name, settings):
    method = make(name, tiny_federation(epochs=1), **settings)
    play(method)
    state = sum(value.nbytes for value in method.state.values())
    ours = nbytes(method.kept_by_server())
    ours += sum(nbytes(method.kept_for_client(c)) for c in range(CLIENTS))
    theirs = sum(nbytes(method.kept_by_client(c)) for c in range(CLIENTS))
    assert ours + theirs <= state
    if scores_on_server(method):
        assert theirs == 0 < ours
