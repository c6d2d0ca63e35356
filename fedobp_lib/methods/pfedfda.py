"""pFedFDA (McLaughlin and Su 2024): the classifier is computed from how features are distributed.

A client's features are taken for Gaussian, with a mean for each class and one covariance for
all. With the client's class shares as priors that gives a linear classifier, Fisher's (`lda`):
nothing of it is learned. In a round, each client of the cohort
1. takes the extractor and the global means and covariance from the server,
2. trains the extractor under the classifier of these global statistics, which stays as it is,
3. estimates means and covariance of its own features; a class with hardly any sample keeps the
   global mean,
4. chooses how far to move from the global to its own statistics, beta in [0, 1], by default one
   for the means and one for the covariance: those with the least cross entropy in cross-validation,
5. uploads the extractor and the interpolated statistics;
the server averages both. The model that is tested has the classifier of statistics that were
interpolated in the same way (3, 4) on the client's training data: before local training, with
the server's extractor.

The paper compares one beta for both (`single_beta`) with two and recommends one, which is found at
less cost. Two are the default here, since they are what the authors' code does unless told
otherwise, its example run included, and what the benchmark behind the FedOBP paper does; where one
is as good, they can come out equal.

Statistics are those of all training samples under the trained extractor; the authors' code
gathers features while it trains, epoch by epoch. It finds beta by ten steps of L-BFGS from 0.5,
clipped to [0, 1], and assigns folds at random; here L-BFGS-B runs until it converges, from the
best of 0, 0.5 and 1, and folds are dealt out class by class, so that every back-end finds the
same betas. That code adds the identity to each local covariance, and so do we (`ridge`), but not
its 1e-4 in each element. Where it estimates what is uploaded, its check that a class has enough
samples counts those of all classes, so that a single sample makes a mean; where it estimates what
is tested it counts as here.

The benchmark, FL-bench, in the copy that the FedOBP authors published, trains no extractor under
Gaussian statistics: clients train as in FedAvg, classifier included, and the function that would
average the statistics is never called, so that the global ones stay as they were drawn. Only the
models of an evaluation get the Gaussian classifier. FL-bench fitted it to the client's test samples
and their labels until 22 January 2025; since then, and in that copy, to its training samples, as
here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.clients import INIT, TRAIN, stream
from ..errors import UserError, unknown
from ..training.parallel import map_on_threads
from ..training.tasks import Task
from .base import Federation, Method, column_mask, register
from .gaussians import Estimator, lda
from .messages import Message

MEAN_WEIGHTS = ("samples", "classes")


@dataclass(frozen=True)
class PFedFDASettings:
    """Hyperparameters of pFedFDA; the values are those of the authors' code.

    Attributes:
        folds: of the cross-validation; a class needs more samples than that for a mean.
        eps: added to the class shares, and the part of a covariance that is replaced by a
            multiple of the identity before it is inverted.
        ridge: times the identity is added to each local covariance.
        single_beta: one beta for means and covariance, else one for each.
        mean_weights: the server weighs a client's means by its `samples`, or each mean by the
            samples of its class (`classes`).
    """

    folds: int = 2
    eps: float = 1e-4
    ridge: float = 1.0
    single_beta: bool = False
    mean_weights: str = "samples"

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise UserError(f"cross-validation needs at least 2 folds, got {self.folds}")
        if not 0 < self.eps < 1:
            raise UserError(f"eps must lie between 0 and 1, got {self.eps}")
        if not self.ridge >= 0:
            raise UserError(f"ridge must not be negative, got {self.ridge}")
        if self.mean_weights not in MEAN_WEIGHTS:
            raise unknown("mean_weights", self.mean_weights, MEAN_WEIGHTS)


class ExtractorTask(Task):
    """Trains the columns of the extractor."""

    def __init__(self, variables: Tensor, extractor: Tensor) -> None:
        super().__init__(variables)
        self.extractor = extractor

    def mask(self, given: dict[str, Tensor], phase: object) -> Tensor:
        return self.extractor


@register("pfedfda")
class PFedFDA(Method):
    """Rows after training hold, behind the model, the interpolated means and covariance."""

    title = "pFedFDA"
    source = "McLaughlin and Su 2024, arXiv 2411.00329"
    Settings = PFedFDASettings

    def __init__(self, federation: Federation, settings: PFedFDASettings | None = None) -> None:
        super().__init__(federation, settings)
        layout, data, device = federation.layout, federation.data, federation.initial.device
        self.weight, self.bias = (layout.spans[f"classifier.{n}"] for n in ("weight", "bias"))
        self.classes = self.bias.stop - self.bias.start
        self.width = (self.weight.stop - self.weight.start) // self.classes
        self.mask = column_mask(layout, "classifier", device=device)
        buffers = torch.ones(layout.size - layout.parameters, dtype=torch.bool, device=device)
        self.extractor = torch.cat([~self.mask, buffers])
        shares = data.class_counts / data.train_counts[:, None] + self.settings.eps
        self.log_priors = (shares / shares.sum(1, keepdim=True)).double().log().to(device)
        chosen = self.settings
        self.estimator = Estimator(chosen.folds, chosen.eps, chosen.ridge, chosen.single_beta)
        # As in the authors' code: random means, uniform in [0, 1), keep the classes apart.
        means = stream(data.seed, INIT, 1).random((self.classes, self.width))
        self.state["means"] = torch.from_numpy(means).float().to(device)
        self.state["covariance"] = torch.eye(self.width, device=device)

    def start(self, clients: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.global_params.expand(len(clients), -1)
        means, covariance = self.state["means"], self.state["covariance"]
        return self.with_classifier(rows, means, covariance, clients), self.mask

    def task(self, start: Tensor, clients: Tensor) -> Task:
        return ExtractorTask(start, self.extractor)

    def train(self, start: Tensor, clients: Tensor, purpose: int = TRAIN) -> Tensor:
        return self.adapt(super().train(start, clients, purpose), clients)

    def models(self, rows: Tensor, clients: Tensor) -> Tensor:
        if rows.shape[1] == self.federation.layout.size:
            rows = self.adapt(rows, clients)
        return self.with_classifier(*self.split(rows), clients)

    def finish(self, clients: Tensor, start: Tensor, trained: Tensor) -> None:
        model, means, covariance = self.split(self.average(clients, trained)[None])
        if self.settings.mean_weights == "classes":
            counts = self.federation.data.class_counts[clients].to(means.dtype)
            local = self.split(trained)[1]
            average = torch.einsum("kc,kcw->cw", counts / counts.sum(0).clamp(min=1), local)
            means = torch.where((counts.sum(0) > 0)[:, None], average, self.state["means"])[None]
        self.state["global"], self.state["means"] = model[0], means[0]
        self.state["covariance"] = covariance[0]

    def messages_down(self, clients: Tensor, start: Tensor) -> list[Message]:
        """Extractor and global statistics; the classifier follows from these."""
        return [self.kept_by_server() for _ in clients]

    def messages_up(self, clients: Tensor, start: Tensor, trained: Tensor) -> list[Message]:
        """Extractor and interpolated statistics, and what the server weighs them by."""
        data, sent = self.federation.data, []
        for client, *parts in zip(clients.tolist(), *self.split(trained), strict=True):
            message = self.parts(*parts) | {"samples": data.train_counts[client]}
            if self.settings.mean_weights == "classes":
                message["classes"] = data.class_counts[client]
            sent.append(message)
        return sent

    def parts(self, model: Tensor, means: Tensor, covariance: Tensor) -> Message:
        """What travels of a model and its statistics; of the covariance one half, with the
        diagonal, as the other is the same."""
        half = torch.tril_indices(self.width, self.width, device=covariance.device)
        extractor = model[self.extractor]
        return {"model": extractor, "means": means, "covariance": covariance[half[0], half[1]]}

    def kept_by_client(self, client: int) -> Message:
        return {}

    def kept_by_server(self) -> Message:
        return self.parts(self.global_params, self.state["means"], self.state["covariance"])

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Models (K, size), means (K, classes, width), covariances of rows after training."""
        size, count = self.federation.layout.size, self.classes * self.width
        model, means, covariance = rows.tensor_split((size, size + count), dim=1)
        return (
            model,
            means.unflatten(1, (-1, self.width)),
            covariance.unflatten(1, (-1, self.width)),
        )

    def with_classifier(
        self, rows: Tensor, means: Tensor, covariance: Tensor, clients: Tensor
    ) -> Tensor:
        """The models (K, size) with the classifier of these statistics and their own priors."""
        covariance = self.estimator.shrink(covariance.double())
        weight, bias = lda(means.double(), covariance, self.log_priors[clients])
        rows = rows.clone()
        rows[:, self.weight] = weight.flatten(-2).float()
        rows[:, self.bias] = bias.float()
        return rows

    def adapt(self, rows: Tensor, clients: Tensor) -> Tensor:
        """Append to the models (K, size) each client's interpolated statistics.

        They are found on the CPU, a client a thread, wherever the models are: L-BFGS takes many
        small steps one after another, which a GPU would only wait for.
        """
        numbers = clients.tolist()
        features = [z.cpu() for z in self.federation.trainer.features(rows, numbers)]
        every = [self.federation.data.labels_of(client).cpu() for client in numbers]
        common = self.state["means"].cpu().double(), self.state["covariance"].cpu().double()
        spectrum = torch.linalg.eigh(self.estimator.shrink(common[1]))
        priors = self.log_priors.cpu()

        def interpolated(client: int, z: Tensor, labels: Tensor) -> Tensor:
            z = z.double()
            betas = self.estimator.choose_betas(z, labels, common[0], spectrum, priors[client])
            own = self.estimator.estimate(z, labels, common[0])
            parts = [torch.lerp(*ends) for ends in zip(common, own, betas, strict=True)]
            return torch.cat([part.flatten() for part in parts])

        parts = zip(numbers, features, every, strict=True)
        statistics = map_on_threads(
            lambda part: interpolated(*part), parts, torch.get_num_threads()
        )
        return torch.cat([rows, torch.stack(statistics).float().to(rows.device)], 1)
