"""Frozen columns in the loop back-end: SGD in few passes, and epochs in which nothing trains."""

import pytest
import torch
from helpers.batchnorm import normalized_federation
from helpers.literal import tiny_federation

from fedobp_lib.training.masked_sgd import MaskedSGD
from fedobp_lib.training.tasks import Task, sgd_step


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_steps_under_changing_masks_are_those_of_sgd(momentum):
    torch.manual_seed(0)
    start = torch.randn(1, 300)
    ours, reference, velocity = start.clone(), start.clone(), torch.zeros(1, 300)
    sgd = MaskedSGD(ours, 0.1, momentum)
    one = torch.rand(1, 300) < 0.5
    for mask in (one, ~one, None, one[0], torch.zeros_like(one), ~one):
        sgd.freeze(mask)
        for _ in range(3):
            before, direction = ours.clone(), torch.randn(1, 300)
            sgd.step(direction)
            sgd_step(reference, velocity, direction, mask, 0.1, momentum)
            torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-6)
            if mask is not None:
                frozen = (~mask).expand_as(ours)
                assert torch.equal(ours[frozen], before[frozen])


def test_what_is_frozen_may_have_no_number_for_a_gradient():
    ours = torch.ones(1, 4)
    mask = torch.tensor([True, False, True, False])
    sgd = MaskedSGD(ours, 0.5, 0.7)
    sgd.freeze(mask)
    sgd.step(torch.tensor([[1.0, torch.nan, 1.0, torch.inf]]))
    assert ours.tolist() == [[0.5, 1.0, 0.5, 1.0]]
    sgd.freeze(~mask)
    sgd.step(torch.ones(1, 4))
    assert ours.tolist() == [[0.5, 0.5, 0.5, 0.5]]


class Turns(Task):
    """Trains where `personal` holds and where it does not, by turns."""

    def phase(self, epoch, epochs):
        return "shared" if epoch % 2 else "personal"

    def mask(self, given, phase):
        return given["personal"] if phase == "personal" else ~given["personal"]


def test_an_epoch_in_which_nothing_trains_is_left_out_and_changes_nothing(monkeypatch):
    federation = tiny_federation()
    layout, clients = federation.layout, [3, 0, 2]
    rows = federation.initial.repeat(3, 1)
    personal = torch.zeros_like(rows, dtype=torch.bool)
    personal[1, layout.layers["classifier"]] = True
    idle, found = Task.idle, []

    def noted(task, phase):
        found.append(idle(task, phase))
        return found[-1]

    monkeypatch.setattr(Task, "idle", noted)
    ours = federation.trainer.fit(Turns(rows, personal=personal), clients, 1, epochs=4)
    assert sum(found) == 4  # two epochs of two clients
    monkeypatch.setattr(Task, "idle", lambda *_: False)
    whole = federation.trainer.fit(Turns(rows, personal=personal), clients, 1, epochs=4)
    assert torch.equal(ours, whole)


def test_running_statistics_go_on_where_nothing_trains():
    federation = normalized_federation()
    rows, parameters = federation.initial[None], federation.layout.parameters
    frozen = Turns(rows, personal=torch.zeros_like(rows, dtype=torch.bool))
    trained = federation.trainer.fit(frozen, [0], 1, epochs=1)
    assert torch.equal(trained[:, :parameters], rows[:, :parameters])
    assert not torch.equal(trained[:, parameters:], rows[:, parameters:])
