"""The loop back-end: one client after another, the reference and the choice for a CPU."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.sgd import sgd

from ..models.networks import ImageModel
from ..models.parameters import ParameterLayout
from .fisher import SampleSquares
from .heads import HeadBackend
from .masked_sgd import MaskedSGD
from .parallel import map_on_threads
from .precision import autocast
from .tasks import Task
from .trainer import Job, LocalSettings, Question

# Samples that a model looks at together: more would not stay in the caches of a core.
CHUNK = 128


class Worker:
    """A model that moves from row to row: its weights are views of a row of its own."""

    def __init__(self, model: ImageModel, layout: ParameterLayout, device: torch.device) -> None:
        self.model = model.to(device)
        self.parameters = list(self.model.parameters())
        self.row = torch.empty(layout.size, device=device)
        layout.bind(self.model, self.row)


class LoopBackend:
    """Train client by client, on a CPU with one worker a core.

    A batch of 32 small images is too little work to share between cores, so each core takes a
    client of its own.

    Args:
        model: supplies the forward pass; its own weights are not used.
        layout: the layout of a row.
        device: where to compute.
        precision: `fp32` or `bf16` (autocast).
    """

    name = "loop"

    def __init__(
        self,
        model: ImageModel,
        layout: ParameterLayout,
        device: torch.device,
        precision: str = "fp32",
    ) -> None:
        self.layout = layout
        self.device = device
        self.precision = precision
        # Threads are counted here: another thread that calls may have its own number of them.
        self._threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.heads = HeadBackend(layout, precision, stacked=False)
        self._workers = [Worker(copy.deepcopy(model), layout, device)]
        # Batch normalization cannot train on a single sample.
        self._smallest_batch = 2 if layout.size > layout.parameters else 1

    def fit(self, jobs: Sequence[Job]) -> list[Tensor]:
        """See `Backend`."""
        results = [torch.empty_like(job.task.variables).contiguous() for job in jobs]

        def work(worker: Worker, j: int, k: int) -> None:
            results[j][k] = self._fit_one(worker, jobs[j], k)

        self._each(jobs, work)
        return results

    def gradient(self, questions: Sequence[Question], chunk: int = CHUNK) -> list[Tensor]:
        """See `Backend`."""
        results = [torch.zeros_like(q.rows) for q in questions]

        def work(worker: Worker, j: int, k: int) -> None:
            worker.row.copy_(questions[j].rows[k])
            worker.model.eval()
            images, labels = self._samples(questions[j], k)
            views = list(self.layout.views(results[j][k]).values())
            for x, y in zip(images.split(chunk), labels.split(chunk), strict=True):
                with autocast(self.device, self.precision):
                    loss = F.cross_entropy(worker.model(x), y, reduction="sum") / len(labels)
                gradients = torch.autograd.grad(loss, worker.parameters)
                for view, gradient in zip(views, gradients, strict=False):
                    view.add_(gradient)

        self._each(questions, work)
        return [rows[:, : self.layout.parameters] for rows in results]

    def fisher(self, questions: Sequence[Question], chunk: int = 64) -> list[Tensor]:
        """See `Backend`."""
        results = [q.rows.new_empty(len(q.rows), self.layout.parameters) for q in questions]

        def work(worker: Worker, j: int, k: int) -> None:
            squares = SampleSquares(worker.model.eval(), self.layout, self.precision)
            samples = self._samples(questions[j], k)
            results[j][k] = squares.mean(questions[j].rows[k], *samples, chunk)

        self._each(questions, work)
        return results

    def features(self, questions: Sequence[Question], chunk: int = CHUNK) -> list[list[Tensor]]:
        """See `Backend`."""
        results: list[list[Any]] = [[None] * len(q.clients) for q in questions]

        @torch.no_grad()
        def work(worker: Worker, j: int, k: int) -> None:
            worker.row.copy_(questions[j].rows[k])
            worker.model.eval()
            images, _ = self._samples(questions[j], k)
            with autocast(self.device, self.precision):
                parts = [worker.model.features(x).float() for x in images.split(chunk)]
            results[j][k] = torch.cat(parts)

        self._each(questions, work)
        return results

    def test(self, questions: Sequence[Question], chunk: int = 512) -> list[tuple[Tensor, Tensor]]:
        """See `Backend`."""
        results = [
            (
                torch.zeros(len(q.rows), dtype=torch.int64, device=self.device),
                torch.zeros(len(q.rows), dtype=torch.float64, device=self.device),
            )
            for q in questions
        ]

        @torch.no_grad()
        def work(worker: Worker, j: int, k: int) -> None:
            worker.row.copy_(questions[j].rows[k])
            worker.model.eval()
            correct, losses = results[j]
            images, labels = self._samples(questions[j], k)
            for x, y in zip(images.split(chunk), labels.split(chunk), strict=True):
                with autocast(self.device, self.precision):
                    logits = worker.model(x)
                correct[k] += (logits.argmax(1) == y).sum()
                losses[k] += F.cross_entropy(logits.float(), y, reduction="sum").double()

        self._each(questions, work)
        return results

    def _samples(self, question: Question, k: int) -> tuple[Tensor, Tensor]:
        index = question.data.of(question.part, question.clients[k])
        return question.data.take(torch.from_numpy(index).to(self.device))

    def _each(
        self, parts: Sequence[Job | Question], work: Callable[[Worker, int, int], None]
    ) -> None:
        """Call `work(worker, j, k)` for client k of every part j.

        On a CPU as many calls run at a time as PyTorch might use threads when this object was
        made, each on one thread, the clients with most samples first; `work` must only write to
        what belongs to its j and k.
        """
        places = [(j, k) for j, part in enumerate(parts) for k in range(len(part.clients))]
        if self.device.type != "cpu":
            for j, k in places:
                work(self._workers[0], j, k)
            return
        count = min(self._threads, len(places))
        while len(self._workers) < count:
            model = copy.deepcopy(self._workers[0].model)
            self._workers.append(Worker(model, self.layout, self.device))
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers[:count]:
            free.put(worker)

        def one(place: tuple[int, int]) -> None:
            worker = free.get()
            try:
                work(worker, *place)
            finally:
                free.put(worker)

        places.sort(
            key=lambda place: -parts[place[0]].data.samples(parts[place[0]].clients[place[1]])
        )
        map_on_threads(one, places, count)

    def _fit_one(self, worker: Worker, job: Job, k: int) -> Tensor:
        """The variables (D,) of client k after its epochs."""
        settings, client = job.settings, job.clients[k]
        task = job.task.take(torch.tensor([k], device=self.device))
        update = (
            _PlainStep(worker, task, settings)
            if task.plain
            else _Step(worker, task, settings, self.layout)
        )
        images, labels = job.data.train(client)
        used = job.data.samples(client, settings.share)
        images = images.permute(0, 2, 3, 1)  # contiguous again, so that rows gather fast
        steps = -(-used // settings.batch_size)
        place = (client, job.round_, job.purpose, settings.epochs)
        draws = job.data.draws(*place, steps, task.draws, settings.skip).to(self.device)
        worker.model.train()
        for epoch, order in enumerate(job.data.orders(*place, settings.share, settings.skip)):
            phase = task.phase(epoch, settings.epochs)
            if self.layout.size == self.layout.parameters and task.idle(phase):
                continue
            order = order.to(self.device)
            shuffled = images[order].permute(0, 3, 1, 2)
            batches = zip(
                shuffled.split(settings.batch_size),
                labels[order].split(settings.batch_size),
                strict=True,
            )
            for number, (x, y) in enumerate(batches):
                if len(y) < self._smallest_batch:
                    continue

                def gradients(x: Tensor = x, y: Tensor = y) -> tuple[Tensor, ...]:
                    with autocast(self.device, self.precision):
                        features = worker.model.features(x)
                        loss = F.cross_entropy(worker.model.classifier(features), y)
                    if task.feature_decay:
                        loss = loss + task.feature_decay * features.float().square().sum()
                    return torch.autograd.grad(loss, worker.parameters)

                update(gradients, phase, draws[epoch, number][None])
        return update.variables[0]


class _PlainStep:
    """SGD on the worker's own row."""

    def __init__(self, worker: Worker, task: Task, settings: LocalSettings) -> None:
        worker.row.copy_(task.variables[0])
        self.variables = worker.row[None]
        self._parameters: list[Tensor] = [*worker.parameters]
        self._velocities: list[Tensor | None] = [None] * len(worker.parameters)
        self._settings = settings

    def __call__(self, gradients: Callable[[], tuple[Tensor, ...]], *_: object) -> None:
        # The fused kernel updates every tensor in one pass over memory.
        sgd(
            self._parameters,
            list(gradients()),
            self._velocities,
            fused=True,
            weight_decay=0.0,
            momentum=self._settings.momentum,
            lr=self._settings.lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )


class _Step:
    """A step of any task.

    Where the variables are a model, they are the worker's own row, so that its gradient can be
    computed where it is.
    """

    def __init__(
        self, worker: Worker, task: Task, settings: LocalSettings, layout: ParameterLayout
    ) -> None:
        self.variables = task.variables.clone()
        if self.variables.shape == worker.row[None].shape:
            worker.row.copy_(self.variables[0])
            self.variables = worker.row[None]
        self._task = task
        self._worker = worker
        self._layout = layout
        self._sgd = MaskedSGD(self.variables, settings.lr, settings.momentum)
        self._phase: object = self  # of no epoch
        # Memory that is new in each step would cost as much as what is done with it.
        self._gradients: list[Tensor] = []

    def __call__(
        self,
        gradients: Callable[[], tuple[Tensor, ...]],
        phase: object,
        draw: Tensor,
    ) -> None:
        layout, row, calls = self._layout, self._worker.row, itertools.count()
        buffers = slice(layout.parameters, layout.size)

        def gradient(rows: Tensor) -> Tensor:
            elsewhere = rows.data_ptr() != row.data_ptr()
            kept = None
            if elsewhere:
                if self.variables.data_ptr() == row.data_ptr():
                    kept = row.clone()
                row.copy_(rows[0])
            call = next(calls)
            if call == len(self._gradients):
                self._gradients.append(torch.empty_like(row))
            flat = self._gradients[call]
            layout.join(gradients(), out=flat[: layout.parameters])
            flat[buffers] = 0
            if elsewhere:
                rows[0, buffers] = row[buffers]
            if kept is not None:
                row.copy_(kept)
            return flat[None]

        task = self._task
        if phase != self._phase:
            self._sgd.freeze(task.mask(task.given, phase))
            self._phase = phase
        direction = task.direction(self.variables, task.given, phase, gradient, draw)
        self._sgd.step(direction)
        task.project(self.variables, task.given)
