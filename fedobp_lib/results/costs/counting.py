"""A back-end that trains nothing and counts what training would cost.

A method runs on it as on any other, so what it does in its hooks is what is counted. Each phase of
a job takes one step, along a gradient of random numbers, and counts as many as there would be. Such
a gradient never becomes small and a loss never changes: FFGG fine-tunes to its last epoch, and
FedALA's first learning ends as early as it may.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from ...models.parameters import ParameterLayout
from ...training.trainer import Job, Question
from .ledger import Ledger
from .network import Flops, Network


class CountingLearner:
    """Counts for whole models, or for classifiers alone.

    Args:
        network: what the rows are.
        ledger: where it is written down.
        batch: samples that a client takes at a time, also where it does not train.
    """

    def __init__(self, network: Network, ledger: Ledger, batch: int) -> None:
        self.network = network
        self.ledger = ledger
        self.batch = batch
        self._random = torch.Generator().manual_seed(0)
        self._numbers = torch.randn(network.size, generator=self._random)
        self._drawn = 0

    def fit(self, jobs: Sequence[Job]) -> list[Tensor]:
        """The variables (K, D) of every job after a step in each phase."""
        with self.ledger.paused():
            return [
                torch.cat([self._fit_one(job, k) for k in range(len(job.clients))]) for job in jobs
            ]

    def gradient(self, questions: Sequence[Question]) -> list[Tensor]:
        """Random numbers (K, P); a forward and a backward pass over all samples is counted."""
        with self.ledger.paused():
            for question in questions:
                self._pass(question, backward=True)
            width = self.network.parameters
            return [torch.stack([self._gradient()[:width] for _ in q.rows]) for q in questions]

    def test(self, questions: Sequence[Question]) -> list[tuple[Tensor, Tensor]]:
        """No correct answer, and a loss of one a sample."""
        with self.ledger.paused():
            for question in questions:
                self._pass(question)
            return [
                (torch.zeros(len(q.rows), dtype=torch.int64), torch.from_numpy(q.counts).double())
                for q in questions
            ]

    def _fit_one(self, job: Job, k: int) -> Tensor:
        settings, network, client = job.settings, self.network, job.clients[k]
        task = job.task.take(torch.tensor([k]))
        count = job.data.samples(client, settings.share)
        statistics = network.size > network.parameters
        left = count % settings.batch_size
        if statistics and left == 1:  # batch normalization leaves out a single sample
            count, left = count - 1, 0
        steps = count // settings.batch_size + (left > 0)
        variables = task.variables.clone()
        phases = Counter(task.phase(epoch, settings.epochs) for epoch in range(settings.epochs))
        held, most = variables != 0, 0.0  # columns that hold a number, and the most that train
        for phase, epochs in phases.items():
            if task.idle(phase) and not statistics:
                continue
            mask = task.mask(task.given, phase)
            models: list[Tensor] = []

            def gradient(rows: Tensor, models: list[Tensor] = models) -> Tensor:
                models.append(rows[0].clone())
                with self.ledger.paused():
                    return self._gradient()[None]

            draw = torch.rand(1, task.draws, generator=self._random)
            with self.ledger.repeated(client, epochs * steps):
                direction = task.direction(variables, task.given, phase, gradient, draw)
            of_models = mask if variables.shape[1] == network.size else None
            for row in models:
                trains = None if of_models is None else of_models.expand_as(variables)[0]
                forward, backward = network.passes(row, trains)
                self.ledger.add(client, "forward", forward * (epochs * count))
                self.ledger.add(client, "backward", backward * (epochs * count))
            columns = torch.ones_like(held) if mask is None else mask.expand_as(variables)
            trained = columns.sum().item()
            held, most = held | columns, max(most, trained)
            # Momentum: multiply and add; the step: multiply and subtract.
            each = 4 if settings.momentum else 2
            update = float(each * trained * epochs * steps)
            self.ledger.add(client, "update", Flops(update, update))
            step = settings.lr * direction
            variables -= step if mask is None else step.masked_fill_(~mask, 0)
            with self.ledger.repeated(client, epochs * steps):
                task.project(variables, task.given)
        given = sum(tensor.nbytes for tensor in task.given.values())
        stored = sum(_sparse_bytes(tensor) for tensor in task.given.values())
        more = 2 if settings.momentum else 1  # the gradient, and its moving average
        batch = min(count, settings.batch_size) * (network.sample + network.activations)
        active = variables.element_size() * (held.sum().item() + more * most)
        dense = (1 + more) * variables.nbytes + given
        self.ledger.needs(client, dense + batch, active + stored + batch)
        return variables

    def _pass(
        self, question: Question, network: Network | None = None, backward: bool = False
    ) -> None:
        """A pass over all samples of each client."""
        network = network or self.network
        for row, client, count in zip(
            question.rows, question.clients, question.counts.tolist(), strict=True
        ):
            of_forward, of_backward = network.passes(row)
            self.ledger.add(client, "forward", of_forward * count)
            gradient, sample = 0, network.sample
            if backward:  # its gradient is of all columns
                self.ledger.add(client, "backward", of_backward * count)
                gradient, sample = row.nbytes, sample + network.activations
            more = gradient + min(count, self.batch) * sample
            self.ledger.needs(client, row.nbytes + more, _sparse_bytes(row) + more)

    def _gradient(self) -> Tensor:
        """Random numbers (size,), another row each time, zero for running statistics."""
        self._drawn += 1
        row = self._numbers.roll(self._drawn)
        row[self.network.parameters :] = 0
        return row


def _sparse_bytes(tensor: Tensor) -> float:
    """Bytes of a tensor without its zeros; a mask is bits, and so is where the zeros are."""
    bits = -(-tensor.numel() // 8)
    if tensor.dtype == torch.bool:
        return bits
    return min(tensor.nbytes, tensor.element_size() * int(tensor.count_nonzero()) + bits)


class CountingBackend(CountingLearner):
    """A back-end that counts; see above."""

    name = "counting"

    def __init__(
        self, network: Network, layout: ParameterLayout, ledger: Ledger, batch: int
    ) -> None:
        super().__init__(network, ledger, batch)
        self.layout = layout
        self.heads = CountingLearner(network.head, ledger, batch)

    def writes(self, ledger: Ledger) -> None:
        """From now on to this ledger."""
        self.ledger = self.heads.ledger = ledger

    def fisher(self, questions: Sequence[Question]) -> list[Tensor]:
        """Random squares (K, P). Each sample's gradient costs as much as its share of a batch's;
        squaring and adding it is two more operations a parameter."""
        gradients = self.gradient(questions)
        for question in questions:
            for client, count in zip(question.clients, question.counts.tolist(), strict=True):
                work = 2.0 * count * self.network.parameters
                self.ledger.add(client, "scoring", Flops(work, work))
        with self.ledger.paused():
            return [gradient.square_() for gradient in gradients]

    def features(self, questions: Sequence[Question]) -> list[list[Tensor]]:
        """Random features of all samples; a forward pass without the classifier is counted."""
        with self.ledger.paused():
            width = self.network.head.sample // 4
            for question in questions:
                self._pass(question, self.network.body)
            return [
                [torch.randn(n, width, generator=self._random) for n in question.counts.tolist()]
                for question in questions
            ]
