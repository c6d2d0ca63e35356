"""FedSelect against its paper, one client at a time, and what sets it apart."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.batchnorm import NormNet, normalized_federation
from helpers.literal import (
    COHORTS,
    batches,
    make,
    module_of,
    play,
    row_of,
    same,
    tiny_federation,
)
from helpers.literal import (
    models_before as before_training,
)

from fedobp_lib.data.clients import FINE_TUNE, TRAIN
from fedobp_lib.errors import UserError

SETTINGS = {"rate": 0.3, "limit": 0.4}


def norm_module(federation):
    """An ordinary `NormNet` with the initial weights."""
    model = NormNet()
    federation.layout.bind(model, federation.initial.clone())
    return copy.deepcopy(model)


class LiteralFedSelect:
    """Algorithms 1 to 3 of the paper; masks and models are dictionaries of tensors.

    Running statistics are in none of them: each client has its own, which nobody else sees.
    """

    def __init__(self, federation, new_module=module_of):
        self.federation = federation
        self.new_module = new_module
        first = new_module(federation)
        self.server = self.tensors(first)
        clients = range(federation.data.clients)
        self.statistics = {i: copy.deepcopy(dict(first.named_buffers())) for i in clients}
        self.local = {i: dict(self.server) for i in clients}
        self.mask = {
            i: {name: torch.zeros_like(t).bool() for name, t in self.server.items()}
            for i in clients
        }

    @staticmethod
    def tensors(model):
        return {name: p.detach().clone() for name, p in model.named_parameters()}

    def module(self, tensors, client):
        model = self.new_module(self.federation)
        model.load_state_dict({**tensors, **self.statistics[client]})
        return model

    def begin(self, client):
        mask, local = self.mask[client], self.local[client]
        return {n: torch.where(mask[n], local[n], server) for n, server in self.server.items()}

    def local_alt(self, client, round_):
        """Trained tensors; odd passes move personal parameters, even ones the others."""
        local = self.federation.trainer.settings
        model = self.module(self.begin(client), client)
        names = [name for name, _ in model.named_parameters()]
        buffers = {name: torch.zeros_like(t) for name, t in self.server.items()}
        passes = list(batches(self.federation, client, round_, TRAIN, 2 * local.epochs))
        for number, shuffled in enumerate(passes, 1):
            for x, y in shuffled:
                if len(y) == 1 and self.statistics[client]:
                    continue  # a single sample has no variance
                loss = F.cross_entropy(model(x), y)
                gradients = torch.autograd.grad(loss, list(model.parameters()))
                for name, p, gradient in zip(names, model.parameters(), gradients, strict=True):
                    moves = self.mask[client][name] if number % 2 else ~self.mask[client][name]
                    buffer = local.momentum * buffers[name] + gradient
                    buffers[name] = torch.where(moves, buffer, buffers[name])
                    p.data = torch.where(moves, p.data - local.lr * buffer, p.data)
        self.statistics[client] = copy.deepcopy(dict(model.named_buffers()))
        return self.tensors(model)

    def grad_select(self, mask, before, after):
        """The mask extended, weight tensor by weight tensor."""
        extended = {}
        for name, old in mask.items():
            extended[name] = new = old.clone()
            if name.endswith("bias"):
                continue
            move = (after[name] - before[name]).abs()
            places = map(tuple, (~old).nonzero().tolist())
            shared = list(zip((-move[~old]).tolist(), places, strict=True))
            room = int(SETTINGS["limit"] * old.numel()) - int(old.sum())
            for amount, place in sorted(shared)[: min(round(SETTINGS["rate"] * len(shared)), room)]:
                if amount < 0:
                    new[place] = True
        return extended

    def round(self, number, cohort):
        trained = {client: self.local_alt(client, number) for client in cohort}
        masks = {
            client: self.grad_select(self.mask[client], self.begin(client), trained[client])
            for client in cohort
        }
        for name, old in self.server.items():
            total, count = torch.zeros_like(old), torch.zeros_like(old)
            for client in cohort:
                shared = ~self.mask[client][name]
                total[shared] += trained[client][name][shared]
                count[shared] += 1
            mean = old.clone()
            mean[count > 0] = total[count > 0] / count[count > 0]
            self.server[name] = mean
        for client in cohort:
            for name, received in self.server.items():
                mine = trained[client][name]
                self.local[client][name] = torch.where(self.mask[client][name], mine, received)
            self.mask[client] = masks[client]


def flips(one, other):
    """Share of bits that differ between masks; sizes of updates may tie up to rounding."""
    return (one != other).double().mean().item()


def test_fedselect_is_its_paper():
    federation = tiny_federation()
    method = make("fedselect", federation, **SETTINGS)
    play(method)
    literal = LiteralFedSelect(federation)
    for number, cohort in enumerate(COHORTS, 1):
        literal.round(number, cohort)

    def row(tensors):
        return row_of(federation, literal.module(tensors, 0))

    assert same(method.global_params, row(literal.server))
    for client in range(5):
        assert same(before_training(method, [client])[0], row(literal.begin(client)))
        mask = row({n: m.float() for n, m in literal.mask[client].items()}).bool()
        assert flips(method.state["mask"][client], mask) < 1e-4
        both = method.state["mask"][client] & mask
        kept = method.state["local"][client]
        assert same(kept[both], row(literal.local[client])[both])
    # The four kinds of clients: none, one and two extensions, the third meets the limit.
    shares = method.state["mask"][:, federation.layout.spans["fc1.weight"]].double().mean(1)
    torch.testing.assert_close(
        shares, torch.tensor([0.4, 0.4, 0.4, 0.0, 0.3]).double(), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_running_statistics_stay_with_their_client(backend):
    federation = normalized_federation(backend)
    layout = federation.layout
    method = make("fedselect", federation, **SETTINGS)
    play(method)
    literal = LiteralFedSelect(federation, norm_module)
    for number, cohort in enumerate(COHORTS, 1):
        literal.round(number, cohort)
    buffers = slice(layout.parameters, layout.size)
    models = before_training(method, list(range(5)))
    for client, model in enumerate(models):
        whole = row_of(federation, literal.module(literal.begin(client), client))
        assert same(model[buffers], whole[buffers], 1e-4)
        assert same(model, whole, 1e-3)
    assert torch.equal(models[3, buffers], federation.initial[buffers])  # never selected
    assert torch.equal(method.global_params[buffers], federation.initial[buffers])
    for one, other in [(0, 1), (1, 2), (2, 4)]:
        assert not same(models[one, buffers], models[other, buffers], 1e-3)


def test_running_statistics_may_be_averaged_like_a_shared_parameter():
    federation = normalized_federation()
    method = make("fedselect", federation, local_statistics=False, **SETTINGS)
    cohort = torch.tensor(COHORTS[0])
    start, _ = method.start(cohort)
    trained = method.train(start, cohort)
    method.finish(cohort, start, trained)
    buffers = slice(federation.layout.parameters, federation.layout.size)
    mean = sum(trained[i, buffers] for i in range(len(cohort))) / len(cohort)
    assert not same(mean, federation.initial[buffers], 1e-2)
    for model in (method.global_params, *before_training(method, list(range(5)))):
        assert same(model[buffers], mean, 1e-5)


def test_the_limit_is_within_the_range_that_the_paper_recommends():
    assert 0.3 <= make("fedselect", tiny_federation()).settings.limit <= 0.5


def test_batched_equals_loop():
    loop, batched = (make("fedselect", tiny_federation(b), **SETTINGS) for b in ("loop", "batched"))
    play(loop), play(batched)
    for name in ("global", "local"):
        assert same(batched.state[name], loop.state[name], 1e-4)
    assert flips(batched.state["mask"], loop.state["mask"]) < 1e-3
    everyone = list(range(5))
    assert same(before_training(batched, everyone), before_training(loop, everyone), 1e-4)


@pytest.fixture
def played():
    method = make("fedselect", tiny_federation(), **SETTINGS)
    play(method, COHORTS[:2])
    return method


@pytest.mark.parametrize("backend", ["loop", "batched"])
@pytest.mark.parametrize("moving", ["personal", "shared"])
def test_what_a_pass_does_not_train_keeps_its_bits(backend, moving):
    method = make("fedselect", tiny_federation(backend), **SETTINGS)
    play(method, COHORTS[:2])
    clients = torch.tensor([1, 4])
    start, mask = method.start(clients)
    task = method.task(start, clients)
    assert [task.phase(epoch, 4) for epoch in range(4)] == ["personal", "shared"] * 2
    task.phase = lambda epoch, epochs: moving
    trained = method.federation.trainer.fit(task, clients.tolist(), 3)
    moves = mask if moving == "personal" else ~mask
    assert torch.equal(trained[~moves], start[~moves])
    for k in range(2):  # units that never fire do not move
        assert (trained[k] != start[k])[moves[k]].double().mean() > 0.2


def test_every_local_epoch_is_a_pass_for_either_part(played, monkeypatch):
    seen = []
    trainer = played.federation.trainer
    fit = trainer.fit
    monkeypatch.setattr(trainer, "fit", lambda *a, **k: seen.append((a[2:], k)) or fit(*a, **k))
    start, _ = played.start(torch.tensor([0]))
    played.train(start, torch.tensor([0]), FINE_TUNE)
    assert seen == [((2, FINE_TUNE), {"epochs": 4})]


def test_masks_are_empty_at_first_then_take_the_largest_updates():
    federation = tiny_federation()
    method = make("fedselect", federation, rate=0.1, limit=1.0)
    assert not method.start(torch.arange(5))[1].any()
    ((start, trained),) = play(method, COHORTS[:1])
    update, layout = (trained - start).abs(), federation.layout
    for name, columns in layout.spans.items():
        mask = method.state["mask"][:3, columns]
        if name.endswith("bias"):
            assert not mask.any()
            continue
        for chosen, size in zip(mask, update[:, columns], strict=True):
            assert chosen.sum() == round(0.1 * len(size))
            assert size[chosen].min() >= size[~chosen].max()
    assert not method.state["mask"][3:].any()


def test_masks_grow_up_to_the_limit_and_never_shrink():
    method = make("fedselect", tiny_federation(), **SETTINGS)
    columns = method.federation.layout.spans["classifier.weight"]
    before, shares = method.state["mask"][1].clone(), []
    for number in range(1, 4):
        clients = torch.tensor([1])
        method.round = number
        start, _ = method.start(clients)
        method.finish(clients, start, method.train(start, clients))
        after = method.state["mask"][1]
        assert (after | ~before).all()
        before = after.clone()
        shares.append(after[columns].sum().item())
    size = columns.stop - columns.start
    assert shares == [round(0.3 * size), int(0.4 * size), int(0.4 * size)]


def test_a_parameter_that_did_not_move_is_not_selected():
    from fedobp_lib.methods.fedselect import grow

    mask = torch.tensor([[False, True, False, False, False]])
    update = torch.tensor([[0.0, 9.0, 2.0, 2.0, 0.0]])
    assert grow(mask, update, 1.0, 1.0).tolist() == [[False, True, True, True, False]]
    assert grow(mask, update, 1.0, 0.4).tolist() == [[False, True, True, False, False]]
    assert grow(mask, update, 0.0, 1.0).equal(mask) and grow(mask, update, 1.0, 0.2).equal(mask)


def test_start_is_local_where_personal_and_the_servers_elsewhere(played):
    everyone = torch.arange(5)
    start, mask = played.start(everyone)
    assert torch.equal(mask, played.state["mask"]) and not mask[3].any()
    assert torch.equal(start[mask], played.state["local"][mask])
    assert torch.equal(start[~mask], played.global_params.expand(5, -1)[~mask])


def test_the_server_averages_each_parameter_over_those_that_share_it():
    """Plain means, whatever the clients' numbers of samples; unshared ones stay as they are."""
    method = make("fedselect", tiny_federation(), rate=0.0)
    layout, clients = method.federation.layout, torch.tensor([0, 1, 4])
    alone, pair, everyone, nobody = 3, 4, 5, 6
    method.state["mask"][[1, 4], alone] = True
    method.state["mask"][0, pair] = True
    method.state["mask"][clients, nobody] = True
    method.round = 1
    start, _ = method.start(clients)
    trained = torch.randn(3, layout.size, generator=torch.Generator().manual_seed(0))
    before = method.global_params.clone()
    method.finish(clients, start, trained)
    after = method.global_params
    assert after[alone] == trained[0, alone] and after[nobody] == before[nobody]
    torch.testing.assert_close(after[pair], trained[1:, pair].mean())
    torch.testing.assert_close(after[everyone], trained[:, everyone].mean())
    assert torch.equal(method.state["local"][clients][:, nobody], trained[:, nobody])
    assert torch.equal(method.start(torch.tensor([0]))[0][0, pair], trained[0, pair])


def test_a_newly_personal_parameter_starts_from_the_mean():
    method = make("fedselect", tiny_federation(), **SETTINGS)
    ((_, trained),) = play(method, COHORTS[:1])
    start, mask = method.start(torch.tensor(COHORTS[0]))
    assert mask.any(1).all()
    assert torch.equal(start[mask], method.global_params.expand(3, -1)[mask])
    assert not same(start[mask], trained[mask], 1e-3)


def test_personal_parameters_wait_for_their_client(played):
    """Client 0 sits out round 2."""
    first = make("fedselect", tiny_federation(), **SETTINGS)
    play(first, COHORTS[:1])
    for name in ("mask", "local"):
        assert torch.equal(played.state[name][[0, 3]], first.state[name][[0, 3]])
        assert not torch.equal(played.state[name][1], first.state[name][1])
    start, mask = played.start(torch.tensor([0]))
    assert torch.equal(start[0][mask[0]], first.global_params[mask[0]])
    assert not same(start[0][mask[0]], played.global_params[mask[0]], 1e-4)


def test_looking_at_models_changes_nothing(played):
    before = {name: tensor.clone() for name, tensor in played.state.items()}
    everyone = torch.arange(5)
    start, _ = played.start(everyone)
    played.train(start, everyone, FINE_TUNE)
    for name, tensor in before.items():
        assert torch.equal(played.state[name], tensor)


def test_settings_are_checked():
    for values, message in [({"rate": 1.1}, "rate"), ({"limit": -0.1}, "limit")]:
        with pytest.raises(UserError, match=message):
            make("fedselect", tiny_federation(), **values)
