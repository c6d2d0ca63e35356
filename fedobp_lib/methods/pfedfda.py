"""pFedFDA (McLaughlin and Su 2024): the classifier is computed from how features are distributed.

A client's features are taken for Gaussian, with a mean for each class and one covariance for
all. With the client's class shares as priors that gives a linear classifier, Fisher's (`lda`):
nothing of it is learned. In a round, each client of the cohort
1. takes the extractor and the global means and covariance from the server,
2. trains the extractor under the classifier of these global statistics, which stays as it is,
3. estimates means and covariance of its own features; a class with hardly any sample keeps the
   global mean,
4. chooses how far to move from the global to its own statistics, beta in [0, 1], one for the
   means and one for the covariance: those with the least cross entropy in cross-validation,
5. uploads the extractor and the interpolated statistics;
the server averages both. The model that is tested has the classifier of statistics that were
interpolated in the same way (3, 4) on the client's training data: before local training, with
the server's extractor.

Statistics are those of all training samples under the trained extractor; the authors' code
gathers features while it trains, epoch by epoch. It finds beta by ten steps of L-BFGS from 0.5,
clipped to [0, 1], and assigns folds at random; here L-BFGS-B runs until it converges, from the
best of 0, 0.5 and 1, and folds are dealt out class by class, so that every back-end finds the
same betas. That code adds the identity to each local covariance, and so do we (`ridge`), but not
its 1e-4 in each element. FL-bench, the benchmark behind the FedOBP paper, fits the statistics and
betas it tests a client with to the client's test samples and their labels; here no test sample is
used.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor
from torch.func import grad_and_value

from ..clients import INIT, TRAIN, stream
from ..errors import UserError, unknown
from ..tasks import Task
from .base import Federation, Method, column_mask, register

MEAN_WEIGHTS = ("samples", "classes")


@dataclass(frozen=True)
class Settings:
    """Hyperparameters of pFedFDA; the values are those of the authors' code.

    Attributes:
        folds: of the cross-validation; a class needs more samples than that for a mean.
        eps: added to the class shares, and the part of a covariance that is replaced by a
            multiple of the identity before it is inverted.
        ridge: times the identity is added to each local covariance.
        single_beta: one beta for means and covariance.
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


def lda(means: Tensor, covariance: Tensor, log_priors: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (..., classes, width) and bias (K, classes) of the Gaussians' classifier.

    Args:
        means: (..., classes, width).
        covariance: (..., width, width).
        log_priors: (K, classes).
    """
    weight = torch.cholesky_solve(means.mT, torch.linalg.cholesky(covariance)).mT
    return weight, log_priors - 0.5 * (weight * means).sum(-1)


@register("pfedfda")
class PFedFDA(Method):
    """Rows after training hold, behind the model, the interpolated means and covariance."""

    title = "pFedFDA"
    source = "McLaughlin and Su 2024, arXiv 2411.00329"
    Settings = Settings

    def __init__(self, federation: Federation, settings: Settings | None = None) -> None:
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
        covariance = self.shrink(covariance.double())
        weight, bias = lda(means.double(), covariance, self.log_priors[clients])
        rows = rows.clone()
        rows[:, self.weight] = weight.flatten(-2).float()
        rows[:, self.bias] = bias.float()
        return rows

    def shrink(self, covariance: Tensor) -> Tensor:
        """A little towards a multiple of the identity, so that it can be inverted."""
        eps, unit = self.settings.eps, torch.eye(self.width).to(covariance)
        scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        return (1 - eps) * covariance + eps * scale * unit

    def adapt(self, rows: Tensor, clients: Tensor) -> Tensor:
        """Append to the models (K, size) each client's interpolated statistics."""
        numbers = clients.tolist()
        features = self.federation.trainer.features(rows, numbers)
        common = self.state["means"].double(), self.state["covariance"].double()
        spectrum = torch.linalg.eigh(self.shrink(common[1]))
        statistics = []
        for client, z in zip(numbers, features, strict=True):
            z, labels = z.double(), self.federation.data.labels_of(client)
            betas = self.choose_betas(z, labels, common[0], spectrum, self.log_priors[client])
            own = self.estimate(z, labels, common[0])
            parts = [torch.lerp(*ends) for ends in zip(common, own, betas, strict=True)]
            statistics.append(torch.cat([part.flatten() for part in parts]))
        return torch.cat([rows, torch.stack(statistics).float()], 1)

    def centre(self, z: Tensor, labels: Tensor, fallback: Tensor) -> tuple[Tensor, Tensor]:
        """Class means (classes, width) of features (n, width), and X so that X'X is their
        covariance.

        Args:
            fallback: (classes, width), the means of classes with too few samples.
        """
        member = F.one_hot(labels, self.classes).to(z)
        counts = member.sum(0)[:, None]
        means = member.T @ z / counts.clamp(min=1)
        means = torch.where(counts > self.settings.folds, means, fallback)
        return means, (z - means[labels]) / max(len(z) - 1, 1) ** 0.5

    def estimate(self, z: Tensor, labels: Tensor, fallback: Tensor) -> tuple[Tensor, Tensor]:
        """Class means and covariance, for classes with too few samples the means `fallback`."""
        means, x = self.centre(z, labels, fallback)
        return means, x.T @ x + self.settings.ridge * torch.eye(self.width).to(z)

    def choose_betas(
        self,
        z: Tensor,
        labels: Tensor,
        means: Tensor,
        spectrum: tuple[Tensor, Tensor],
        log_priors: Tensor,
    ) -> list[float]:
        """The betas of means and covariance with the least cross entropy on held-out folds.

        Args:
            z, labels: features (n, width) and labels of a client.
            means: (classes, width), global.
            spectrum: eigenvalues and eigenvectors of the global covariance.
            log_priors: (classes,).
        """
        folds = self.settings.folds
        kept = torch.bincount(labels, minlength=self.classes)[labels] >= folds
        order = labels[kept].argsort(stable=True)
        z, labels = z[kept][order], labels[kept][order]
        fold = torch.arange(len(z), device=z.device) % folds
        if len(z) - -(-len(z) // folds) < 2:
            return [0.0, 0.0]  # no fold to estimate from: stay with the global statistics
        parts = []
        for k in range(folds):
            own, x = self.centre(z[fold != k], labels[fold != k], means)
            start, end, x, basis = self.diagonalize(x, *spectrum)
            there = (own @ basis, means @ basis, start, end, x, z[fold == k] @ basis)
            parts.append([tensor.cpu() for tensor in (*there, labels[fold == k])])
        log_priors = log_priors.cpu()

        def loss(betas: Tensor) -> Tensor:
            total = 0
            for own, common, start, end, x, held_out, truth in parts:
                centres = torch.lerp(common, own, betas[0])
                inner = torch.lerp(start, end, betas[-1])
                weight = centres / inner
                if len(x):  # Woodbury's formula for the rest of the covariance, beta X'X
                    small = betas[-1] * (x / inner) @ x.T + torch.eye(len(x)).to(x)
                    rest = torch.linalg.solve(small, betas[-1] * x @ weight.T)
                    weight = weight - (rest.T @ x) / inner
                bias = log_priors - 0.5 * (weight * centres).sum(1)
                total = total + F.cross_entropy(held_out @ weight.T + bias, truth)
            return total

        def value_and_slope(betas):
            slope, value = grad_and_value(loss)(torch.from_numpy(betas))
            return value.item(), slope.numpy()

        # From the best of a few points, as there can be several minima.
        count = 1 if self.settings.single_beta else 2
        grid = list(product((0.0, 0.5, 1.0), repeat=count))
        values = [loss(torch.tensor(point, dtype=torch.float64)).item() for point in grid]
        best = minimize(
            value_and_slope,
            grid[values.index(min(values))],
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, 1)] * count,
            options={"maxiter": 100, "ftol": 1e-13, "gtol": 1e-9},
        )
        return [float(best.x[0]), float(best.x[-1])]

    def diagonalize(
        self, x: Tensor, values: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A basis in which interpolated covariances are cheap to invert, again and again.

        Returns:
            start, end, x, basis: in the basis the covariance is that between diag(start) and
            diag(end) plus beta x' x. With many samples x is empty.
        """
        eps = self.settings.eps
        identity = (1 - eps) * self.settings.ridge
        identity += eps * (self.settings.ridge + x.square().sum() / self.width)
        x = (1 - eps) ** 0.5 * x @ vectors
        if 4 * len(x) < self.width:
            return values, identity.expand_as(values), x, vectors
        x = x * values.rsqrt()
        spread, turn = torch.linalg.eigh(x.T @ x + torch.diag(identity / values))
        return torch.ones_like(values), spread, x[:0], vectors * values.rsqrt() @ turn
