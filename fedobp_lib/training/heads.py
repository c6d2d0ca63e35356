"""Training of classifiers on features that stay.

Where only the classifier trains, what the body below it makes of an image stays. So `Features` take
the place of the clients' images, and a row holds a classifier alone: its weights, then its bias.
Tasks, batches and steps are those of whole models. The gradient is written out: of the cross
entropy it is softmax less one-hot at the logits, and that times the features at the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.parameters import ParameterLayout
from .parallel import map_on_threads
from .plan import BatchPlan, alike
from .precision import autocast
from .tasks import Task, sgd_step
from .trainer import Job, Question


class HeadBackend:
    """Trains, differentiates and tests classifiers: a `Learner` for what is asked on `Features`.

    Args:
        layout: of the whole model.
        precision: `bf16`: the products with weights and features are computed in it, as autocast
            does in a whole model.
        stacked: all clients train at once, as one stack; else one after the other, as their steps
            are too small for threads to help.
    """

    def __init__(self, layout: ParameterLayout, precision: str, stacked: bool) -> None:
        self.layout = layout
        self.precision = precision
        self._stacked = stacked
        self._shape = layout.shapes[layout.names.index("classifier.weight")]

    def fit(self, jobs: Sequence[Job]) -> list[Tensor]:
        """The trained variables (K, D) of every job; see `Learner`."""
        if self._stacked:
            results: list[Tensor] = [job.task.variables for job in jobs]
            for group in alike(jobs):
                trained = self._fit_alike([jobs[j] for j in group])
                for j, rows in zip(group, trained, strict=True):
                    results[j] = rows
            return results

        def one(job: Job, k: int) -> Tensor:
            task = job.task.take(torch.tensor([k], device=job.data.device))
            alone = Job(task, job.data, (job.clients[k],), job.round_, job.purpose, job.settings)
            return self._fit_alike([alone])[0][0]

        return [torch.stack(rows) for rows in self._each(jobs, one)]

    def gradient(self, questions: Sequence[Question]) -> list[Tensor]:
        """Gradients (K, columns) of the mean loss over all samples."""

        def one(question: Question, k: int) -> Tensor:
            x, y = question.data.train(question.clients[k])
            weight = x.new_full((1, len(y)), 1 / len(y))
            return self._gradient(question.rows[k, None], x[None], y[None], weight)[0]

        return [torch.stack(rows) for rows in self._each(questions, one)]

    def test(self, questions: Sequence[Question]) -> list[tuple[Tensor, Tensor]]:
        """Correct answers, int64 (K,), and sums of losses in nats, float64 (K,)."""

        def one(question: Question, k: int) -> tuple[Tensor, Tensor]:
            x, y = question.data.train(question.clients[k])
            logits = self._logits(question.rows[k, None], x[None])[0].float()
            loss = F.cross_entropy(logits, y, reduction="sum").double()
            return (logits.argmax(1) == y).sum(), loss

        return [
            (torch.stack([right for right, _ in part]), torch.stack([loss for _, loss in part]))
            for part in self._each(questions, one)
        ]

    def _each(self, parts: Sequence, one: Callable) -> Iterator[list]:
        """For every part, what `one(part, k)` gives for its clients k."""
        places = [(part, k) for part in parts for k in range(len(part.clients))]
        if parts[0].data.device.type == "cpu":
            # One thread each, as sums split between threads would depend on their number.
            results = iter(map_on_threads(lambda p: one(*p), places, 1))
        else:
            results = iter([one(*place) for place in places])
        for part in parts:
            yield [next(results) for _ in part.clients]

    def _fit_alike(self, jobs: Sequence[Job]) -> list[Tensor]:
        data = jobs[0].data
        plan = BatchPlan.of(jobs, data.device)
        task = Task.join([job.task for job in jobs]).take(plan.order)
        variables = task.variables.clone()
        velocity = torch.zeros_like(variables)
        for epoch in range(plan.epochs):
            phase = task.phase(epoch, plan.epochs)
            for step in range(plan.steps):
                n = int((plan.counts > step * plan.batch_size).sum())  # those with a batch left
                given = {name: tensor[:n] for name, tensor in task.given.items()}
                x, y = data.take(plan.index[epoch, step, :n])
                weight = plan.weight[step, :n]

                def gradient(
                    models: Tensor, x: Tensor = x, y: Tensor = y, weight: Tensor = weight
                ) -> Tensor:
                    return self._gradient(models, x, y, weight)

                rows, draw = variables[:n], plan.draws[epoch, step, :n]
                direction = task.direction(rows, given, phase, gradient, draw)
                mask, rates = task.mask(given, phase), (plan.lr[:n], plan.momentum[:n])
                sgd_step(rows, velocity[:n], direction, mask, *rates)
                task.project(rows, given)
        trained = torch.empty_like(variables)
        trained[plan.order] = variables
        return list(trained.split([len(job.clients) for job in jobs]))

    def _logits(self, heads: Tensor, x: Tensor) -> Tensor:
        """Logits (n, batch, classes) of features (n, batch, width)."""
        weights = heads[:, : self._shape.numel()].unflatten(1, self._shape)
        bias = heads[:, None, self._shape.numel() :]
        with autocast(x.device, self.precision):
            return torch.baddbmm(bias, x, weights.mT)

    def _gradient(self, heads: Tensor, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the weighted cross entropy at heads (n, columns).

        Args:
            heads: weights (classes, width) and bias of each.
            x: features (n, batch, width).
            y: labels (n, batch).
            weight: (n, batch), of each sample in the loss.
        """
        error = self._logits(heads, x).float().softmax(2).mul_(weight[..., None])
        error.scatter_add_(2, y[..., None], -weight[..., None])
        with autocast(x.device, self.precision):
            of_weights = torch.bmm(error.mT, x)
        return torch.cat([of_weights.flatten(1).float(), error.sum(1)], 1)
