"""The batched back-end: one step for all clients of a cohort at once, the choice for a GPU.

The clients' models are the rows of one matrix, and `vmap` turns the forward and backward pass
of one model into that of all. Clients are sorted by their number of samples, so those that
still have a batch in an epoch are always the first rows, and finished ones cost nothing. A last,
short batch is filled up with samples of weight zero. Everything a round needs is sent to the
device before it begins; no step waits for the host, and on a GPU every kind of step is recorded
once as a CUDA graph and replayed.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from .clients import ClientData
from .convolutions import CONVOLUTIONS, with_convolution
from .parameters import ParameterLayout
from .tasks import Task, sgd_step
from .training import Job, Question, autocast, sample_squares

KEPT_STAGES = 3


class BatchedBackend:
    """Train, differentiate and test the models of many clients as one stack.

    Args:
        model: supplies the forward pass; its own weights are not used.
        layout: the layout of a row.
        device: where to compute.
        precision: `fp32`, `tf32` (GPU) or `bf16` (autocast).
        convolution: one of `CONVOLUTIONS`, or None: the fastest, measured on first use.
        graphs: record steps as CUDA graphs; None: on a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        device: torch.device,
        precision: str = "fp32",
        convolution: str | None = None,
        graphs: bool | None = None,
    ) -> None:
        self.layout = layout
        self.device = device
        self.precision = precision
        self.convolution = convolution
        self.graphs = device.type == "cuda" if graphs is None else graphs
        prepared = _prepared(model, device)
        self._models = {kind: with_convolution(prepared, kind) for kind in CONVOLUTIONS}
        # Batch statistics see the whole batch: nothing may be filled up, and one sample is none.
        self._exact_batches = layout.size > layout.parameters
        self._stages: list[_Stage] = []  # the latest first
        if device.type == "cuda":
            allowed = precision == "tf32"
            torch.backends.cuda.matmul.allow_tf32 = allowed
            torch.backends.cudnn.allow_tf32 = allowed

    def fit(self, jobs: Sequence[Job]) -> list[Tensor]:
        """See `Backend`. Jobs that are not alike are trained one kind after another."""
        results: list[Tensor | None] = [None] * len(jobs)
        for group in _alike(jobs):
            trained = self._fit_alike([jobs[j] for j in group])
            for j, rows in zip(group, trained, strict=True):
                results[j] = rows
        return results

    def _fit_alike(self, jobs: Sequence[Job]) -> list[Tensor]:
        plan = _Plan.of(jobs, self.device)
        task = Task.join([job.task for job in jobs]).take(plan.order)
        data = jobs[0].data
        if self.convolution is None:
            self.convolution = self._fastest_convolution(data, plan.batch_size)
        stage = self._stage(task, plan)
        stage.begin(task, plan)
        for epoch in range(plan.epochs):
            phase = task.phase(epoch, plan.epochs)
            for number in range(plan.steps):
                for rows, samples in plan.groups(number, self._exact_batches):
                    self._step(stage, plan, data, phase, epoch, number, rows, samples)
        trained = torch.empty_like(stage.variables)
        trained[plan.order] = stage.variables
        return list(trained.split([len(job.clients) for job in jobs]))

    def gradient(self, questions: Sequence[Question], chunk: int = 128) -> list[Tensor]:
        """See `Backend`."""
        every = _AllSamples(questions, self.device, chunk)
        total = torch.zeros(len(every.rows), self.layout.parameters, device=self.device)
        for n, images, labels, weight in every:
            scaled = weight / every.counts[:n, None]
            gradients = self._gradient(every.rows[:n], images, labels, scaled, train=False)
            total[:n] += gradients[:, : self.layout.parameters]
        return every.unsort(total)

    def fisher(self, questions: Sequence[Question], chunk: int = 8) -> list[Tensor]:
        """See `Backend`."""
        every = _AllSamples(questions, self.device, chunk)
        total = torch.zeros(len(every.rows), self.layout.parameters, device=self.device)
        squares = sample_squares(self._model(train=False), self.layout, self.precision)
        for n, images, labels, weight in every:
            total[:n] += vmap(squares)(self.layout.views(every.rows[:n]), images, labels, weight)
        return every.unsort(total / every.counts[:, None])

    @torch.no_grad()
    def features(self, questions: Sequence[Question], chunk: int = 256) -> list[list[Tensor]]:
        """See `Backend`."""
        every = _AllSamples(questions, self.device, chunk)
        model = self._model(train=False)
        headless = copy.copy(model)
        headless.forward = model.features
        parts: list[list[Tensor]] = [[] for _ in every.rows]
        for n, images, _, _ in every:
            with autocast(self.device, self.precision):
                features = self._forward(headless, every.rows[:n], images).float()
            for part, feature in zip(parts, features, strict=False):
                part.append(feature)
        return every.unsort([torch.cat(p)[: every.length(k)] for k, p in enumerate(parts)])

    @torch.no_grad()
    def test(self, questions: Sequence[Question], chunk: int = 256) -> list[tuple[Tensor, Tensor]]:
        """See `Backend`."""
        every = _AllSamples(questions, self.device, chunk)
        correct = torch.zeros(len(every.rows), dtype=torch.int64, device=self.device)
        losses = torch.zeros(len(every.rows), dtype=torch.float64, device=self.device)
        model = self._model(train=False)
        for n, images, labels, weight in every:
            with autocast(self.device, self.precision):
                logits = self._forward(model, every.rows[:n], images)
            right = (logits.argmax(2) == labels) & (weight > 0)
            correct[:n] += right.sum(1)
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
            losses[:n] += (loss.view_as(weight) * weight).sum(1, dtype=torch.float64)
        return list(zip(every.unsort(correct), every.unsort(losses), strict=True))

    def _model(self, train: bool) -> nn.Module:
        return self._models[self.convolution or "grouped"].train(train)

    def _forward(self, model: nn.Module, rows: Tensor, images: Tensor) -> Tensor:
        """What the models `rows` (n, size) make of their images (n, batch, ...)."""

        def forward(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
            return functional_call(model, tensors, (images,))

        return vmap(forward)(self.layout.views(rows), images)

    def _gradient(
        self,
        rows: Tensor,
        images: Tensor,
        labels: Tensor,
        weight: Tensor,
        train: bool,
        feature_decay: float = 0.0,
    ) -> Tensor:
        """Gradient (n, size) of every row's weighted loss; buffers in `rows` are updated.

        Args:
            rows: (n, size).
            images, labels: (n, batch, ...).
            weight: (n, batch), of each sample in the loss.
            train: mode of the model.
            feature_decay: see `Task`; for samples whose weight is not 0.
        """
        layout = self.layout
        model = copy.copy(self._model(train))
        model.forward = partial(_features_and_logits, self._model(train))
        views = layout.views(rows)
        names = list(views)
        trainable = {n: views[n] for n in names if layout.spans[n].start < layout.parameters}
        buffers = {n: views[n] for n in names if n not in trainable}

        def loss(parameters, buffers, images, labels, weight):
            kept = {name: buffer.clone() for name, buffer in buffers.items()}
            with autocast(self.device, self.precision):
                features, logits = functional_call(model, {**parameters, **kept}, (images,))
            losses = F.cross_entropy(logits.float(), labels, reduction="none") * weight
            if feature_decay:
                norms = features.float().square().sum(1)
                losses = losses + feature_decay * norms * (weight > 0)
            return losses.sum(), kept

        gradients, kept = vmap(grad(loss, has_aux=True))(trainable, buffers, images, labels, weight)
        flat = torch.zeros_like(rows)
        for name, view in layout.views(flat).items():
            if name in gradients:
                view.copy_(gradients[name])
            elif train:
                views[name].copy_(kept[name])
        return flat

    def _stage(self, task: Task, plan: _Plan) -> _Stage:
        """The fixed memory that steps of this kind work on, kept from round to round.

        A method may train several kinds of task in turn, so the latest few are kept.
        """
        for number, stage in enumerate(self._stages):
            if (
                stage.variables.shape == task.variables.shape
                and stage.weight.shape == plan.weight.shape[1:]
                and stage.task.like(task)
            ):
                self._stages.insert(0, self._stages.pop(number))
                return stage
        del self._stages[KEPT_STAGES - 1 :]  # memory is free before the next takes as much
        self._stages.insert(0, _Stage(task, plan))
        return self._stages[0]

    def _step(
        self,
        stage: _Stage,
        plan: _Plan,
        data: ClientData,
        phase: Hashable,
        epoch: int,
        number: int,
        rows: slice,
        samples: int,
    ) -> None:
        """One step of the clients `rows`, with the first `samples` places of their batches."""
        stage.index[rows].copy_(plan.index[epoch, number, rows])
        stage.weight[rows].copy_(plan.weight[number, rows])
        stage.draw[rows].copy_(plan.draws[epoch, number, rows])

        def step() -> None:
            task, variables = stage.task, stage.variables[rows]
            given = {name: tensor[rows] for name, tensor in stage.given.items()}
            images, labels = data.take(stage.index[rows, :samples])
            weight = stage.weight[rows, :samples]
            direction = task.direction(
                variables,
                given,
                phase,
                lambda models: self._gradient(
                    models, images, labels, weight, True, task.feature_decay
                ),
                stage.draw[rows],
            )
            sgd_step(
                variables,
                stage.velocity[rows],
                direction,
                task.mask(given, phase),
                stage.lr[rows],
                stage.momentum[rows],
            )
            task.project(variables, given)

        # Steps of single clients are too many kinds to record.
        if not self.graphs or samples < plan.batch_size:
            step()
            return
        key = (phase, rows.start, rows.stop)
        if key not in stage.recorded:
            stage.recorded[key] = self._record(stage, step)
        stage.recorded[key]()

    def _record(self, stage: _Stage, step: Callable[[], None]) -> Callable[[], None]:
        """`step` as a CUDA graph; where that fails, `step` itself, with a word about it."""
        saved = stage.variables.clone(), stage.velocity.clone()
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):  # libraries choose their algorithms outside of the graph
                    step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=stage.pool()):
                step()
            replay = graph.replay
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            print(f"steps run without CUDA graphs, so slower: {reason}", file=sys.stderr)
            self.graphs, replay = False, step
        stage.variables.copy_(saved[0])
        stage.velocity.copy_(saved[1])
        return replay

    def _fastest_convolution(self, data: ClientData, batch_size: int, clients: int = 8) -> str:
        """The fastest way to compute convolutions here, measured once a device and model."""
        key = (str(self.device), type(self._models["grouped"]), data.images.shape[1:],
               self.precision, batch_size)  # fmt: skip
        if key not in _FASTEST:
            index = torch.zeros(clients, batch_size, dtype=torch.int64, device=self.device)
            images, labels = data.take(index)
            weight = torch.full_like(labels, 1 / batch_size, dtype=torch.float32)
            rows = torch.zeros(clients, self.layout.size, device=self.device)
            seconds = {}
            for kind in CONVOLUTIONS:
                self.convolution = kind
                times = []
                for _ in range(4):
                    began = self._clock()
                    self._gradient(rows.clone(), images, labels, weight, train=True)
                    times.append(self._clock() - began)
                seconds[kind] = min(times)
            _FASTEST[key] = min(seconds, key=seconds.get)
        return _FASTEST[key]

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


_FASTEST: dict[Hashable, str] = {}


class _AllSamples:
    """All samples that questions ask about, in batches of whole cohorts.

    Iterating gives (n, images (n, batch, C, H, W), labels, weight (n, batch)) for the first n
    rows; weight is 1, or 0 where a batch is filled up.

    Attributes:
        rows: the models, those with most samples first.
        counts: their numbers of samples, float32.

    Raises:
        ValueError: the questions are about different images.
    """

    def __init__(self, questions: Sequence[Question], device: torch.device, chunk: int) -> None:
        self._data = questions[0].data
        if not all(q.data.shares_images(self._data) for q in questions):
            raise ValueError("models can be looked at together on the same images only")
        self._sizes = [len(q.clients) for q in questions]
        samples = [q.data.of(q.part, client) for q in questions for client in q.clients]
        counts = np.array([len(s) for s in samples])
        order = np.argsort(-counts, kind="stable")
        self._counts = counts[order]
        self._order = torch.from_numpy(order).to(device)
        self._chunk = int(min(chunk, counts.max()))
        length = -(-counts.max() // self._chunk) * self._chunk
        index = np.zeros((len(counts), length), np.int64)
        for place, client in enumerate(order):
            index[place, : counts[client]] = samples[client]
        self._index = torch.from_numpy(index).to(device)
        weight = np.arange(length) < self._counts[:, None]
        self._weight = torch.from_numpy(weight).to(device, torch.float32)
        self.rows = torch.cat([q.rows for q in questions])[self._order]
        self.counts = torch.from_numpy(self._counts).to(device, torch.float32)

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        for start in range(0, self._index.shape[1], self._chunk):
            n = int((self._counts > start).sum())
            place = slice(0, n), slice(start, start + self._chunk)
            yield n, *self._data.take(self._index[place]), self._weight[place]

    def length(self, row: int) -> int:
        """How many samples a row has."""
        return int(self._counts[row])

    def unsort(self, values: Tensor | list[Tensor]) -> list:
        """Values of the rows, put back into the order of the questions and split by question."""
        back = dict(zip(self._order.tolist(), values, strict=True))
        ordered = iter([back[k] for k in range(len(back))])
        parts = [list(islice(ordered, size)) for size in self._sizes]
        return [torch.stack(p) for p in parts] if isinstance(values, Tensor) else parts


@dataclass(frozen=True)
class _Plan:
    """All batches of a round, clients sorted by their number of samples, most first.

    Attributes:
        order: int64 (K,), the place in the jobs of each sorted client.
        counts: their numbers of samples.
        batch_size, epochs: of local training.
        index: int64 (epochs, steps, K, batch), which samples.
        weight: float (steps, K, batch), 1 / batch length, or 0 where a batch is filled up.
        draws: float (epochs, steps, K, draws).
        lr, momentum: (K, 1).
    """

    order: Tensor
    counts: np.ndarray
    batch_size: int
    epochs: int
    index: Tensor
    weight: Tensor
    draws: Tensor
    lr: Tensor
    momentum: Tensor

    @classmethod
    def of(cls, jobs: Sequence[Job], device: torch.device) -> _Plan:
        epochs, size = jobs[0].settings.epochs, jobs[0].settings.batch_size
        clients = [(job, client) for job in jobs for client in job.clients]
        counts = np.array([job.data.samples(c, job.settings.share) for job, c in clients])
        order = np.argsort(-counts, kind="stable")
        counts = counts[order]
        steps = -(-int(counts[0]) // size)
        index = np.zeros((epochs, steps, len(clients), size), np.int64)
        weight = np.zeros((steps, len(clients), size), np.float32)
        width = jobs[0].task.draws
        draws = torch.zeros(epochs, steps, len(clients), width)
        for place, number in enumerate(order):
            job, client = clients[number]
            count = int(counts[place])
            samples = job.data.partition.train(client)
            padded = np.zeros(steps * size, np.int64)
            where = (client, job.round_, job.purpose, epochs)
            turns = job.data.orders(*where, job.settings.share, job.settings.skip)
            for epoch, turn in enumerate(turns):
                padded[:count] = samples[turn.numpy()]
                index[epoch, :, place] = padded.reshape(steps, size)
            used = -(-count // size)
            filled = np.arange(steps * size).reshape(steps, size) < count
            weight[:, place] = filled / np.maximum(filled.sum(1, keepdims=True), 1)
            if width:
                draws[:, :used, place] = job.data.draws(*where, used, width, job.settings.skip)
        columns = [
            [getattr(job.settings, name) for job, _ in (clients[i] for i in order)]
            for name in ("lr", "momentum")
        ]
        rates = torch.tensor(columns, dtype=torch.float32)[..., None]
        lr, momentum = _send(rates, device)
        return cls(
            _send(torch.from_numpy(order), device),
            counts,
            size,
            epochs,
            _send(torch.from_numpy(index), device),
            _send(torch.from_numpy(weight), device),
            _send(draws, device),
            lr,
            momentum,
        )

    @property
    def steps(self) -> int:
        """Steps in an epoch of the client with most samples."""
        return self.index.shape[1]

    def groups(self, number: int, exact: bool) -> list[tuple[slice, int]]:
        """Which rows take step `number` of an epoch together, and with how many samples.

        Args:
            number: of the step.
            exact: short batches are not filled up: such clients take their step alone, and a
                batch of one sample is left out.
        """
        left = self.counts - number * self.batch_size
        active = int((left > 0).sum())
        if not exact:
            return [(slice(0, active), self.batch_size)]
        full = int((left >= self.batch_size).sum())
        groups = [(slice(0, full), self.batch_size)] if full else []
        return groups + [
            (slice(k, k + 1), int(left[k])) for k in range(full, active) if left[k] > 1
        ]


def _alike(jobs: Sequence[Job]) -> list[list[int]]:
    """The places of jobs that can be trained as one."""
    groups: list[list[int]] = []
    for j, job in enumerate(jobs):
        for group in groups:
            first = jobs[group[0]]
            sizes = (job.settings.epochs, job.settings.batch_size)
            if (
                sizes == (first.settings.epochs, first.settings.batch_size)
                and job.data.shares_images(first.data)
                and job.task.like(first.task)
            ):
                group.append(j)
                break
        else:
            groups.append([j])
    return groups


class _Stage:
    """Memory at fixed places, which recorded steps read and write."""

    def __init__(self, task: Task, plan: _Plan) -> None:
        self.variables = torch.empty_like(task.variables)
        self.velocity = torch.empty_like(task.variables)
        self.given = {name: torch.empty_like(tensor) for name, tensor in task.given.items()}
        # Later tasks are like this one. Recorded steps go on reading what else belongs to it.
        self.task = copy.copy(task)
        self.task.variables, self.task.given = self.variables, self.given
        self.index = torch.empty_like(plan.index[0, 0])
        self.weight = torch.empty_like(plan.weight[0])
        self.draw = torch.empty_like(plan.draws[0, 0])
        self.lr = torch.empty_like(plan.lr)
        self.momentum = torch.empty_like(plan.momentum)
        self.recorded: dict[Hashable, Callable[[], None]] = {}
        self._pool: object = None

    def begin(self, task: Task, plan: _Plan) -> None:
        """Take in a new round."""
        self.variables.copy_(task.variables)
        self.velocity.zero_()
        for name, tensor in task.given.items():
            self.given[name].copy_(tensor)
        self.lr.copy_(plan.lr)
        self.momentum.copy_(plan.momentum)

    def pool(self) -> object:
        """One memory pool for all recorded steps, as only one runs at a time."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for it."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _prepared(model: nn.Module, device: torch.device) -> nn.Module:
    model = copy.deepcopy(model).to(device)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.num_batches_tracked = None  # a counter nobody reads, which vmap cannot raise
    return model


def _features_and_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    features = model.features(images)
    return features, model.classifier(features)
