"""FedALA against its paper, one client at a time, and what sets it apart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.literal import (
    COHORTS,
    batches,
    make,
    module_of,
    play,
    row_of,
    same,
    tiny_federation,
    weights_of,
)
from helpers.literal import (
    models_before as before_training,
)

from fedobp_lib.data.clients import FINE_TUNE, LEARN
from fedobp_lib.errors import UserError

# A large eta spreads the weights over [0, 1]; the threshold lets clients stop at different times.
SETTINGS = {"share": 0.6, "eta": 30.0, "threshold": 0.01, "window": 3, "passes": 12}


class LiteralFedALA:
    """Algorithm 1 of the paper, with lists of tensors.

    `everyone`: as in the official code, the server sends its model to all clients, and each
    makes its local model from it by adaptive local aggregation, whether it trains then or not.
    """

    def __init__(self, federation, layers, everyone=False):
        self.federation = federation
        self.everyone = everyone
        self.upper = 2 * layers  # weight and bias of each
        self.server = module_of(federation)
        clients = range(federation.data.clients)
        self.local = {i: module_of(federation) for i in clients}
        self.weights = {i: None for i in clients}
        self.phase = {i: "first" for i in clients}
        self.passes = {i: [] for i in clients}

    def adapt(self, client, round_):
        """The initialized model, the weights and the number of passes."""
        theirs = [p.data for p in self.server.parameters()][-self.upper :]
        mine = [p.data for p in self.local[client].parameters()][-self.upper :]
        model = module_of(self.federation, row_of(self.federation, self.server))
        weights = self.weights[client]
        weights = [torch.ones_like(t) for t in mine] if weights is None else list(weights)
        tensors = list(model.parameters())[-self.upper :]

        def put():
            for p, m, t, w in zip(tensors, mine, theirs, weights, strict=True):
                p.data = m + (t - m) * w

        if all(torch.equal(m, t) for m, t in zip(mine, theirs, strict=True)):
            return model, weights, 0
        put()
        images, labels = self.federation.data.train(client)
        losses = []
        while True:
            done = len(losses) + 1
            shares = batches(self.federation, client, round_, LEARN, done, SETTINGS["share"])
            for x, y in list(shares)[-1]:
                gradients = torch.autograd.grad(F.cross_entropy(model(x), y), tensors)
                for k, gradient in enumerate(gradients):
                    step = SETTINGS["eta"] * gradient * (theirs[k] - mine[k])
                    weights[k] = (weights[k] - step).clamp(0, 1)
                put()
            with torch.no_grad():
                losses.append(F.cross_entropy(model(images), labels).item())
            settled = (
                done > SETTINGS["window"]
                and np.std(losses[-SETTINGS["window"] :]) < SETTINGS["threshold"]
            )
            if self.phase[client] == "later" or settled or done == SETTINGS["passes"]:
                return model, weights, done

    def round(self, number, cohort):
        uploads = []
        clients = range(self.federation.data.clients)
        for client in [i for i in clients if self.everyone and i not in cohort]:
            self.local[client], self.weights[client], done = self.adapt(client, number)
            self.passes[client].append(done)
            if done:
                self.phase[client] = "later"
        for client in cohort:
            model, self.weights[client], done = self.adapt(client, number)
            self.passes[client].append(done)
            if done:
                self.phase[client] = "later"
            local = self.federation.trainer.settings
            sgd = torch.optim.SGD(model.parameters(), lr=local.lr, momentum=local.momentum)
            for epoch in batches(self.federation, client, number):
                for x, y in epoch:
                    sgd.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    sgd.step()
            self.local[client] = model
            uploads.append(row_of(self.federation, model))
        shares = weights_of(self.federation, cohort)
        mean = sum(share * row for share, row in zip(shares, uploads, strict=True))
        self.server = module_of(self.federation, mean)


@pytest.mark.parametrize("layers", [1, 2])
def test_fedala_is_its_paper(layers):
    federation = tiny_federation()
    method = make("fedala", federation, layers=layers, **SETTINGS)
    play(method)
    literal = LiteralFedALA(federation, layers)
    for number, cohort in enumerate(COHORTS, 1):
        literal.round(number, cohort)
    assert same(method.global_params, row_of(federation, literal.server))
    for client in range(5):
        before = before_training(method, [client])[0]
        assert same(before, row_of(federation, literal.adapt(client, 3)[0]))
        upper = row_of(federation, literal.local[client])[method.columns]
        assert same(method.state["upper"][client], upper)
        if literal.weights[client] is not None:
            flat = torch.cat([w.flatten() for w in literal.weights[client]])
            assert same(1 - method.state["weights"][client], 1 - flat, 1e-4)
    # No pass in round 1, a number of the client's own when it learns first, one later.
    assert literal.passes[0][0] == 0 and literal.passes[0][1] > 3
    assert literal.passes[1][2] == literal.passes[2][2] == 1
    firsts = [literal.passes[0][1], literal.passes[1][1], literal.passes[4][0]]
    assert len(set(firsts)) > 1 and min(firsts) < SETTINGS["passes"]
    assert method.state["learned"].tolist() == [True, True, True, False, True]


def test_everyone_learns_as_in_the_official_code():
    """Client 3, never selected, follows the server's model by what it learns."""
    federation = tiny_federation()
    method = make("fedala", federation, everyone=True, **SETTINGS)
    play(method)
    literal = LiteralFedALA(federation, 1, everyone=True)
    for number, cohort in enumerate(COHORTS, 1):
        literal.round(number, cohort)
    assert same(method.global_params, row_of(federation, literal.server))
    for client in range(5):
        upper = row_of(federation, literal.local[client])[method.columns]
        assert same(method.state["upper"][client], upper)
        flat = torch.cat([w.flatten() for w in literal.weights[client]])
        assert same(1 - method.state["weights"][client], 1 - flat, 1e-4)
    assert literal.passes[3][0] == 0 and literal.passes[3][1] > 3 and literal.passes[3][2] == 1
    assert method.state["learned"].all()
    assert not same(method.state["upper"][3], federation.initial[method.columns], 1e-2)


@pytest.mark.parametrize("everyone", [False, True])
def test_batched_equals_loop(everyone):
    settings = SETTINGS | {"everyone": everyone}
    loop, batched = (make("fedala", tiny_federation(b), **settings) for b in ("loop", "batched"))
    play(loop), play(batched)
    for name in ("global", "upper", "weights"):
        assert same(batched.state[name], loop.state[name], 1e-4)
    assert torch.equal(batched.state["learned"], loop.state["learned"])
    everyone = list(range(5))
    assert same(before_training(batched, everyone), before_training(loop, everyone), 1e-4)


@pytest.fixture
def played():
    method = make("fedala", tiny_federation(), **SETTINGS)
    play(method, COHORTS[:2])
    return method


def test_lower_layers_are_the_servers_and_upper_ones_lie_between(played):
    everyone = torch.arange(5)
    start, personal = played.start(everyone)
    rows, cut = played.models(start, everyone), played.columns.start
    weights = start[:, played.federation.layout.size :]
    assert cut == played.federation.layout.layers["classifier"].start
    assert torch.equal(rows[:, :cut], played.global_params[:cut].expand(5, -1))
    local, server = played.state["upper"], played.global_params[cut:].expand(5, -1)
    low, high = torch.minimum(local, server), torch.maximum(local, server)
    assert ((low <= rows[:, cut:]) & (rows[:, cut:] <= high)).all()
    assert 0 <= weights.min() < 0.1 and weights.max() == 1
    assert torch.equal(rows[:, cut:][weights == 1], server[weights == 1])
    assert torch.equal(rows[:, cut:][weights == 0], local[weights == 0])
    assert not personal[:, :cut].any()
    assert torch.equal(personal[:, cut:], weights < 1) and personal.any()


def test_learned_weights_fit_the_client_better_than_the_server_does(played):
    """For the clients that learn until their loss has settled."""
    clients = torch.tensor([0, 3])
    trainer = played.federation.trainer
    learned = trainer.losses(before_training(played, [0, 3]), [0, 3])
    ones = torch.ones_like(played.state["weights"][clients])
    assert (learned < trainer.losses(played.blend(ones, clients), [0, 3])).all()


def test_first_to_convergence_then_one_pass_on_the_same_sample(played, monkeypatch):
    """Client 0 has had nothing to learn yet, client 1 has learned in round 2."""
    fits, orders = [], {0: [], 1: []}
    fit, order = played.federation.trainer.fit, played.federation.data.orders
    monkeypatch.setattr(
        played.federation.trainer,
        "fit",
        lambda task, clients, *a, **k: fits.append((clients, a, k)) or fit(task, clients, *a, **k),
    )

    def noted(client, *where):
        for one in order(client, *where):
            orders[client].append(one)
            yield one

    monkeypatch.setattr(played.federation.data, "orders", noted)
    played.round = 3
    played.start(torch.tensor([0, 1]))
    assert [clients for clients, _, _ in fits] == [[0, 1]] + [[0]] * (len(fits) - 1)
    assert len(fits) > SETTINGS["window"] and len(orders[1]) == 1
    assert all(k["lr"] == 30 and k["momentum"] == 0 for _, _, k in fits)
    first, second = orders[0][:2]
    size = int(0.6 * len(played.federation.data.partition.train(0)))
    assert len(first) == size and not torch.equal(first, second)
    assert all(set(o.tolist()) == set(first.tolist()) for o in orders[0])


def test_epochs_can_go_on_where_others_ended():
    data = tiny_federation().data
    for share in (1.0, 0.5):
        everything = list(data.orders(1, 4, LEARN, 5, share))
        rest = list(data.orders(1, 4, LEARN, 2, share, skip=3))
        assert len(rest) == 2 and all(map(torch.equal, rest, everything[3:]))
    draws = data.draws(1, 4, LEARN, 5, 3, 2)
    assert torch.equal(data.draws(1, 4, LEARN, 2, 3, 2, skip=3), draws[3:])


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_both_back_ends_skip_epochs(backend):
    """Without momentum, two epochs are one epoch, and then the one that comes after it."""
    trainer = tiny_federation(backend, momentum=0.0).trainer
    rows = tiny_federation().initial[None]
    both = trainer.fit(rows, [1], 1, epochs=2)
    one = trainer.fit(rows, [1], 1, epochs=1)
    assert same(trainer.fit(one, [1], 1, epochs=1, skip=1) - one, both - one, 1e-4)
    assert not same(trainer.fit(one, [1], 1, epochs=1) - one, both - one, 1e-2)


def test_looking_at_models_changes_nothing(played):
    before = {name: tensor.clone() for name, tensor in played.state.items()}
    everyone = torch.arange(5)
    start, _ = played.start(everyone)
    played.train(start, everyone, FINE_TUNE)
    assert torch.equal(played.start(everyone)[0], start)
    for name, tensor in before.items():
        assert torch.equal(played.state[name], tensor)


def test_clients_keep_their_own_weights_and_old_models(played):
    """In round 2 client 0 was not selected; client 3 never was."""
    method = make("fedala", tiny_federation(), **SETTINGS)
    (_, trained), *_ = play(method, COHORTS[:1])
    upper = played.state["upper"]
    assert torch.equal(upper[0], trained[0, played.columns])
    assert torch.equal(upper[3], played.federation.initial[played.columns])
    weights = played.state["weights"]
    assert (weights[[0, 3]] == 1).all()
    for one, other in [(1, 2), (1, 4), (2, 4)]:
        assert not same(weights[one], weights[other], 1e-2)
    assert played.state["learned"].tolist() == [False, True, True, False, True]


def test_nothing_to_learn_in_the_first_round():
    method = make("fedala", tiny_federation())
    start, personal = method.start(torch.arange(5))
    assert torch.equal(start[:, : len(method.global_params)], method.global_params.expand(5, -1))
    assert (start[:, len(method.global_params) :] == 1).all() and not personal.any()


def test_settings_are_checked():
    for values, message in [
        ({"layers": 0}, "at least one layer"),
        ({"layers": 5}, "has 4 layers"),
        ({"share": 0.0}, r"\(0, 1\]"),
        ({"eta": -1.0}, "positive"),
        ({"threshold": 0.0}, "positive"),
        ({"window": 1}, "at least 2"),
        ({"passes": 0}, "at least 1"),
    ]:
        with pytest.raises(UserError, match=message):
            make("fedala", tiny_federation(), **values)
