"""Local SGD of a cohort: rows of variables in, trained rows out.

Methods talk to a `Trainer`, which knows one federation's data and settings. It hands `Job`s to
a back-end, which does the computing: `LoopBackend` here, client by client, is the reference for
correctness and the choice for a CPU; `BatchedBackend` in `batched.py` takes all clients at once
and is the choice for a GPU. Both see the same batches and give the same numbers up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.optim.sgd import sgd

from .clients import TRAIN, ClientData
from .parallel import each_on_one_thread
from .parameters import ParameterLayout
from .tasks import Task, sgd_step

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True)
class LocalSettings:
    """What a client does with its data in a round (paper, Section 4.1)."""

    epochs: int = 5
    batch_size: int = 32
    lr: float = 0.01
    momentum: float = 0.7
    share: float = 1.0  # of its samples, drawn anew in each round, those it uses
    skip: int = 0  # epochs of the round that went before, so that batches go on after them


@dataclass(frozen=True)
class Job:
    """Local training of some clients of one federation in one round."""

    task: Task
    data: ClientData
    clients: tuple[int, ...]
    round_: int
    purpose: int
    settings: LocalSettings


@dataclass(frozen=True)
class Question:
    """Models (K, size) and the clients on whose data they are to be looked at.

    Models are in evaluation mode. `part` of the data is `train` or `test`.
    """

    rows: Tensor
    data: ClientData
    clients: tuple[int, ...]
    part: str = "train"

    @property
    def counts(self) -> np.ndarray:
        """Samples of each client, int64 (K,)."""
        return np.array([len(self.data.of(self.part, client)) for client in self.clients])


class Backend(Protocol):
    """Computes for the clients of one or several federations that share images and model."""

    layout: ParameterLayout

    def fit(self, jobs: Sequence[Job]) -> list[Tensor]:
        """The trained variables (K, D) of every job."""

    def gradient(self, questions: Sequence[Question]) -> list[Tensor]:
        """Gradients (K, P) of the mean loss over all samples."""

    def fisher(self, questions: Sequence[Question]) -> list[Tensor]:
        """Mean over all samples of each sample's squared gradient: (K, P)."""

    def features(self, questions: Sequence[Question]) -> list[list[Tensor]]:
        """For each client, what its model hands to the classifier: (samples, width)."""

    def test(self, questions: Sequence[Question]) -> list[tuple[Tensor, Tensor]]:
        """Of each client's samples: correct answers, int64 (K,), and the sum of their losses
        in nats, float64 (K,)."""


class Trainer:
    """One federation's way to the back-end.

    Args:
        backend: computes.
        data: the clients' data.
        settings: epochs, batch size, learning rate, momentum.
    """

    def __init__(self, backend: Backend, data: ClientData, settings: LocalSettings) -> None:
        self.backend = backend
        self.layout = backend.layout
        self.data = data
        self.settings = settings

    def fit(
        self,
        task: Task | Tensor,
        clients: Sequence[int],
        round_: int,
        purpose: int = TRAIN,
        **changes: float,
    ) -> Tensor:
        """Train every client on its own data by mini-batch SGD (paper, Eq. 10).

        Each epoch visits a client's samples once, in an order that depends on (seed, purpose,
        round, client); the last batch may be short. Momentum starts at zero.

        Args:
            task: what is trained, a row a client; rows (K, size) stand for plain SGD on models.
            clients: their K numbers.
            round_: number of the round.
            purpose: which random stream orders the batches.
            changes: fields of `LocalSettings` that differ this time.

        Returns:
            (K, D), the trained variables.
        """
        if isinstance(task, Tensor):
            task = Task(task)
        numbers = tuple(int(client) for client in clients)
        settings = replace(self.settings, **changes)
        return self.backend.fit([Job(task, self.data, numbers, round_, purpose, settings)])[0]

    def gradient(self, rows: Tensor, clients: Sequence[int]) -> Tensor:
        """Gradient of each client's mean training loss at its row, a model: (K, P)."""
        return self.backend.gradient([self._ask(rows, clients)])[0]

    def fisher(self, rows: Tensor, clients: Sequence[int]) -> Tensor:
        """Mean of the squared gradients of a client's single training samples: (K, P).

        The diagonal of the empirical Fisher information, as in Kirkpatrick et al. (2017). The
        paper's Eq. 6 squares the mean instead; that is `gradient(...) ** 2`.
        """
        return self.backend.fisher([self._ask(rows, clients)])[0]

    def features(self, rows: Tensor, clients: Sequence[int]) -> list[Tensor]:
        """What each model hands to its classifier: (samples, width) for every client.

        The samples are a client's training samples in the order of the partition; their labels
        are `data.labels_of(client)`.
        """
        return self.backend.features([self._ask(rows, clients)])[0]

    def losses(self, rows: Tensor, clients: Sequence[int]) -> Tensor:
        """Mean training loss of each row, in nats: float64 (K,)."""
        question = self._ask(rows, clients)
        _, total = self.backend.test([question])[0]
        return total / torch.from_numpy(question.counts).to(total)

    def test(self, rows: Tensor, clients: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Test each row on its client's test data; see `Backend.test`."""
        return self.backend.test([self._ask(rows, clients, "test")])[0]

    def _ask(self, rows: Tensor, clients: Sequence[int], part: str = "train") -> Question:
        return Question(rows, self.data, tuple(int(client) for client in clients), part)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 for what tolerates it, if asked for.

    Weights change between two steps, so their rounded copies must not be cached.
    """
    enabled = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def sample_squares(
    model: nn.Module, layout: ParameterLayout, precision: str
) -> Callable[[dict[str, Tensor], Tensor, Tensor, Tensor], Tensor]:
    """A function of one model's tensors, images (n, C, H, W), labels (n,) and weights (n,) that
    gives the weighted sum of the samples' squared gradients, (P,).

    Args:
        model: supplies the forward pass, in evaluation mode.
        layout: of the result.
        precision: of the forward and backward pass.
    """
    names = [name for name in layout.names if layout.spans[name].start < layout.parameters]

    def loss(trainable: dict, buffers: dict, image: Tensor, label: Tensor) -> Tensor:
        with autocast(image.device, precision):
            logits = functional_call(model, {**trainable, **buffers}, (image[None],))
        return F.cross_entropy(logits.float(), label[None])

    def squares(tensors: dict[str, Tensor], images: Tensor, labels: Tensor, weights: Tensor):
        trainable = {name: tensors[name] for name in names}
        buffers = {name: tensor for name, tensor in tensors.items() if name not in trainable}
        each = vmap(grad(loss), (None, None, 0, 0))(trainable, buffers, images, labels)
        return layout.join(
            [torch.einsum("n,n...->...", weights, each[name].square()) for name in names]
        )

    return squares


class Worker:
    """A model that moves from row to row: its weights are views of a row of its own."""

    def __init__(self, model: nn.Module, layout: ParameterLayout, device: torch.device) -> None:
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

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        device: torch.device,
        precision: str = "fp32",
    ) -> None:
        self.layout = layout
        self.device = device
        self.precision = precision
        # Threads are counted here: another thread that calls may have its own number of them.
        self._threads = torch.get_num_threads() if device.type == "cpu" else 1
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

    def gradient(self, questions: Sequence[Question], chunk: int = 512) -> list[Tensor]:
        """See `Backend`."""
        results = [q.rows.new_zeros(len(q.rows), self.layout.parameters) for q in questions]

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
        return results

    def fisher(self, questions: Sequence[Question], chunk: int = 8) -> list[Tensor]:
        """See `Backend`."""
        results = [q.rows.new_zeros(len(q.rows), self.layout.parameters) for q in questions]

        def work(worker: Worker, j: int, k: int) -> None:
            tensors = self.layout.views(questions[j].rows[k])
            images, labels = self._samples(questions[j], k)
            squares = sample_squares(worker.model.eval(), self.layout, self.precision)
            for x, y in zip(images.split(chunk), labels.split(chunk), strict=True):
                results[j][k] += squares(tensors, x, y, torch.ones(len(y), device=self.device))
            results[j][k] /= len(labels)

        self._each(questions, work)
        return results

    def features(self, questions: Sequence[Question], chunk: int = 512) -> list[list[Tensor]]:
        """See `Backend`."""
        results: list[list[Tensor]] = [[None] * len(q.clients) for q in questions]

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
        each_on_one_thread(one, places, count)

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
            order = order.to(self.device)
            shuffled = images[order].permute(0, 3, 1, 2)
            batches = zip(
                shuffled.split(settings.batch_size),
                labels[order].split(settings.batch_size),
                strict=True,
            )
            phase = task.phase(epoch, settings.epochs)
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
        self._parameters = worker.parameters
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
    """A step of any task."""

    def __init__(
        self, worker: Worker, task: Task, settings: LocalSettings, layout: ParameterLayout
    ) -> None:
        self.variables = task.variables.clone()
        self._task = task
        self._worker = worker
        self._settings = settings
        self._layout = layout
        self._velocity = torch.zeros_like(self.variables)

    def __call__(
        self,
        gradients: Callable[[], tuple[Tensor, ...]],
        phase: object,
        draw: Tensor,
    ) -> None:
        layout, row = self._layout, self._worker.row

        def gradient(rows: Tensor) -> Tensor:
            row.copy_(rows[0])
            flat = torch.zeros_like(row)
            for view, part in zip(layout.views(flat).values(), gradients(), strict=False):
                view.copy_(part)
            rows[0, layout.parameters :] = row[layout.parameters :]
            return flat[None]

        task, settings = self._task, self._settings
        direction = task.direction(self.variables, task.given, phase, gradient, draw)
        mask = task.mask(task.given, phase)
        sgd_step(self.variables, self._velocity, direction, mask, settings.lr, settings.momentum)
        task.project(self.variables, task.given)
