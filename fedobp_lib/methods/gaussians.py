"""Gaussian class features: their classifier, and statistics between global and local ones.

What pFedFDA (McLaughlin and Su 2024) rests on. Features of a class are taken for Gaussian, with
a mean for each class and one covariance for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad_and_value


def lda(means: Tensor, covariance: Tensor, log_priors: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (..., classes, width) and bias (K, classes) of the Gaussians' classifier.

    Args:
        means: (..., classes, width).
        covariance: (..., width, width).
        log_priors: (K, classes).
    """
    weight = torch.cholesky_solve(means.mT, torch.linalg.cholesky(covariance)).mT
    return weight, log_priors - 0.5 * (weight * means).sum(-1)


@dataclass(frozen=True)
class Estimator:
    """Statistics of a client's features, and how far to move to them from the global ones.

    Attributes:
        folds: of the cross-validation; a class needs more samples than that for a mean.
        eps: the part of a covariance that is replaced by a multiple of the identity before it is
            inverted.
        ridge: times the identity is added to each estimated covariance.
        single_beta: one beta for means and covariance.
    """

    folds: int
    eps: float
    ridge: float
    single_beta: bool

    def shrink(self, covariance: Tensor) -> Tensor:
        """A little towards a multiple of the identity, so that it can be inverted."""
        eps, unit = self.eps, torch.eye(covariance.shape[-1]).to(covariance)
        scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        return (1 - eps) * covariance + eps * scale * unit

    def _centre(self, z: Tensor, labels: Tensor, fallback: Tensor) -> tuple[Tensor, Tensor]:
        """Class means (classes, width) of features (n, width), and X so that X'X is their
        covariance.

        Args:
            fallback: (classes, width), the means of classes with too few samples.
        """
        member = F.one_hot(labels, len(fallback)).to(z)
        counts = member.sum(0)[:, None]
        means = member.T @ z / counts.clamp(min=1)
        means = torch.where(counts > self.folds, means, fallback)
        return means, (z - means[labels]) / max(len(z) - 1, 1) ** 0.5

    def estimate(self, z: Tensor, labels: Tensor, fallback: Tensor) -> tuple[Tensor, Tensor]:
        """Class means and covariance, for classes with too few samples the means `fallback`."""
        means, x = self._centre(z, labels, fallback)
        return means, x.T @ x + self.ridge * torch.eye(z.shape[1]).to(z)

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
        folds = self.folds
        kept = torch.bincount(labels, minlength=len(means))[labels] >= folds
        order = labels[kept].argsort(stable=True)
        z, labels = z[kept][order], labels[kept][order]
        fold = torch.arange(len(z), device=z.device) % folds
        if len(z) - -(-len(z) // folds) < 2:
            return [0.0, 0.0]  # no fold to estimate from: stay with the global statistics
        parts = []
        for k in range(folds):
            own, x = self._centre(z[fold != k], labels[fold != k], means)
            start, end, x, basis = self._diagonalize(x, *spectrum)
            there = (own @ basis, means @ basis, start, end, x, z[fold == k] @ basis)
            parts.append([*there, labels[fold == k]])

        def loss(betas: Tensor) -> Tensor:
            total = torch.zeros((), dtype=log_priors.dtype)
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

        from scipy.optimize import minimize  # here, as it takes half a second

        # From the best of a few points, as there can be several minima.
        count = 1 if self.single_beta else 2
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

    def _diagonalize(
        self, x: Tensor, values: Tensor, vectors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A basis in which interpolated covariances are cheap to invert, again and again.

        Returns:
            start, end, x, basis: in the basis the covariance is that between diag(start) and
            diag(end) plus beta x' x. With many samples x is empty.
        """
        eps = self.eps
        identity = (1 - eps) * self.ridge + eps * (self.ridge + x.square().sum() / x.shape[1])
        x = (1 - eps) ** 0.5 * x @ vectors
        if 4 * len(x) < x.shape[1]:
            return values, identity.expand_as(values), x, vectors
        x = x * values.rsqrt()
        spread, turn = torch.linalg.eigh(x.T @ x + torch.diag(identity / values))
        return torch.ones_like(values), spread, x[:0], vectors * values.rsqrt() @ turn
