"""Classifiers trained on features against whole models whose body is frozen."""

import pytest
import torch
from helpers.batchnorm import normalized_federation
from helpers.literal import make, play, same, tiny_federation
from torch import Tensor

from fedobp_lib.data.clients import LEARN
from fedobp_lib.models.networks import build_model
from fedobp_lib.training.backends import make_backend
from fedobp_lib.training.tasks import Task
from fedobp_lib.training.trainer import Trainer

BACKENDS = ["loop", "batched"]
CLIENTS = [3, 0, 2]  # of unequal numbers of samples, not in their order


class Drawn(Task):
    """Scales the gradient of some columns by a random number, and shrinks them to a bound."""

    draws = 1

    def __init__(self, variables: Tensor, columns: slice, **given: Tensor) -> None:
        super().__init__(variables, **given)
        self.columns = columns

    def mask(self, given, phase):
        mask = torch.zeros_like(given["scale"], dtype=torch.bool)
        mask[:, self.columns] = True
        return mask

    def direction(self, variables, given, phase, gradient, draw):
        return gradient(variables) * given["scale"] * (1 + draw)

    def project(self, variables, given):
        variables[:, self.columns] = variables[:, self.columns].clamp(-0.03, 0.03)


def federation_and_rows(backend, **settings):
    """A trainer, a model for each client, and the classifier's columns."""
    federation = tiny_federation(backend, **settings)
    rows = federation.initial * torch.tensor([[1.0], [0.9], [1.1]])
    return federation, rows, federation.layout.layers["classifier"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", [{}, {"skip": 2, "share": 0.6}, {"momentum": 0.0, "epochs": 4}])
def test_training_equals_that_of_the_whole_model_with_a_frozen_body(backend, how):
    federation, rows, head = federation_and_rows(backend)
    trainer, where = federation.trainer, (CLIENTS, 2, LEARN)
    scale = torch.linspace(0.5, 1.5, 3)[:, None].expand_as(rows)
    whole = trainer.fit(Drawn(rows, head, scale=scale), *where, **how)
    features = trainer.fixed_features(rows, CLIENTS)
    alone = Drawn(rows[:, head], slice(None), scale=scale[:, head])
    ours = trainer.fit(alone, *where, features, **how)
    for k in range(3):
        assert same(ours[k] - rows[k, head], whole[k, head] - rows[k, head])
    assert torch.equal(whole[:, : head.start], rows[:, : head.start])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_and_losses_are_those_of_the_whole_model(backend):
    federation, rows, head = federation_and_rows(backend)
    trainer, there = federation.trainer, [2, 3]  # of the clients that have features, some
    features = trainer.fixed_features(rows, CLIENTS)
    some = rows[[2, 0]]
    whole = trainer.gradient(some, there)[:, head]
    assert same(trainer.gradient(some[:, head], there, features), whole)
    losses = trainer.losses(some[:, head], there, features)
    torch.testing.assert_close(losses, trainer.losses(some, there), rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_bf16_products_are_rounded_as_in_a_whole_model(backend):
    """Nearer to the whole model in bf16 than that is to fp32."""
    federation, rows, head = federation_and_rows(backend)
    net, data = build_model("avgcnn", (16, 16, 1), 3, seed=0), federation.data
    computes = make_backend(backend, net, federation.layout, data.device, "bf16")
    rounded = Trainer(computes, data, federation.trainer.settings)
    mask = torch.zeros_like(rows, dtype=torch.bool)
    mask[:, head] = True

    class Frozen(Task):
        def mask(self, given, phase):
            return given["mask"]

    exact = federation.trainer.fit(Frozen(rows, mask=mask), CLIENTS, 1)[:, head]
    whole = rounded.fit(Frozen(rows, mask=mask), CLIENTS, 1)[:, head]
    features = rounded.fixed_features(rows, CLIENTS)
    ours = rounded.fit(rows[:, head], CLIENTS, 1, features=features)
    assert (ours - whole).norm() < 0.5 * (exact - whole).norm()


def test_the_number_of_threads_changes_nothing():
    trained = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        federation, rows, head = federation_and_rows("loop")
        features = federation.trainer.fixed_features(rows, CLIENTS)
        trained.append(federation.trainer.fit(rows[:, head], CLIENTS, 1, features=features))
    assert torch.equal(*trained)


def test_features_stay_without_running_statistics_alone():
    assert tiny_federation().trainer.features_stay
    assert not normalized_federation().trainer.features_stay


METHODS = [
    ("ffgg", {"tolerance": 0.0}),
    ("ffgg", {"variant": "gradient"}),
    ("fedala", {"passes": 12, "window": 3, "threshold": 0.01}),
    ("fedrep", {}),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("name", "settings"), METHODS)
def test_methods_give_the_same_numbers_and_train_whole_models_less(
    name, settings, backend, monkeypatch
):
    trained = {}

    def rounds(kind):
        method = make(name, tiny_federation(backend), **settings)
        fit = method.federation.trainer.backend.fit
        epochs = trained[kind] = []

        def counted(jobs):
            epochs.extend(job.settings.epochs for job in jobs)
            return fit(jobs)

        monkeypatch.setattr(method.federation.trainer.backend, "fit", counted)
        return play(method), method.state

    ours, state = rounds("features")
    monkeypatch.setattr(Trainer, "features_stay", False)
    whole, expected = rounds("whole")
    for one, other in zip(ours, whole, strict=True):
        assert same(one[0], other[0]) and same(one[1], other[1])
    for key, tensor in expected.items():
        assert same(state[key].double(), tensor.double())
    assert sum(trained["features"]) < sum(trained["whole"])
