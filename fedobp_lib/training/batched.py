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
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..data.clients import ClientData
from ..models.networks import ImageModel
from ..models.parameters import ParameterLayout
from .convolutions import CONVOLUTIONS, with_convolution
from .fisher import SampleSquares
from .heads import HeadBackend
from .plan import AllSamples, BatchPlan, alike
from .precision import autocast
from .step_memory import StepMemory
from .tasks import Task, sgd_step
from .trainer import Job, Question

KEPT_MEMORIES = 3


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
        model: ImageModel,
        layout: ParameterLayout,
        device: torch.device,
        precision: str = "fp32",
        convolution: str | None = None,
        graphs: bool | None = None,
    ) -> None:
        self.layout = layout
        self.device = device
        self.precision = precision
        self.heads = HeadBackend(layout, precision)
        self.convolution = convolution
        self.graphs = device.type == "cuda" if graphs is None else graphs
        prepared = _prepared(model, device)
        self._models = {kind: with_convolution(prepared, kind) for kind in CONVOLUTIONS}
        # Batch statistics see the whole batch: nothing may be filled up, and one sample is none.
        self._exact_batches = layout.size > layout.parameters
        self._memories: list[StepMemory] = []  # the latest first
        if device.type == "cuda":
            allowed = precision == "tf32"
            torch.backends.cuda.matmul.allow_tf32 = allowed
            torch.backends.cudnn.allow_tf32 = allowed

    def fit(self, jobs: Sequence[Job]) -> list[Tensor]:
        """See `Backend`. Jobs that are not alike are trained one kind after another."""
        results: list[Any] = [None] * len(jobs)
        for group in alike(jobs):
            trained = self._fit_alike([jobs[j] for j in group])
            for j, rows in zip(group, trained, strict=True):
                results[j] = rows
        return results

    def _fit_alike(self, jobs: Sequence[Job]) -> list[Tensor]:
        plan = BatchPlan.of(jobs, self.device)
        task = Task.join([job.task for job in jobs]).take(plan.order)
        data = jobs[0].data
        if self.convolution is None:
            self.convolution = self._fastest_convolution(data, plan.batch_size)
        memory = self._memory_for(task, plan)
        memory.begin(task, plan)
        for epoch in range(plan.epochs):
            phase = task.phase(epoch, plan.epochs)
            for number in range(plan.steps):
                for rows, samples in plan.groups(number, self._exact_batches):
                    self._step(memory, plan, data, phase, epoch, number, rows, samples)
        trained = torch.empty_like(memory.variables)
        trained[plan.order] = memory.variables
        return list(trained.split([len(job.clients) for job in jobs]))

    def gradient(self, questions: Sequence[Question], chunk: int = 128) -> list[Tensor]:
        """See `Backend`."""
        every = AllSamples(questions, self.device, chunk)
        total = torch.zeros(len(every.rows), self.layout.parameters, device=self.device)
        for n, images, labels, weight in every:
            scaled = weight / every.counts[:n, None]
            gradients = self._gradient(every.rows[:n], images, labels, scaled, train=False)
            total[:n] += gradients[:, : self.layout.parameters]
        return every.unsort(total)

    def fisher(self, questions: Sequence[Question], chunk: int = 128) -> list[Tensor]:
        """See `Backend`. One model after another: each is many samples, and it is once a round."""
        squares = SampleSquares(self._models["grouped"].eval(), self.layout, self.precision)
        results = []
        for q in questions:
            rows = []
            for row, client in zip(q.rows, q.clients, strict=True):
                index = torch.from_numpy(q.data.of(q.part, client)).to(self.device)
                rows.append(squares.mean(row, *q.data.take(index), chunk))
            results.append(torch.stack(rows))
        return results

    @torch.no_grad()
    def features(self, questions: Sequence[Question], chunk: int = 256) -> list[list[Tensor]]:
        """See `Backend`."""
        every = AllSamples(questions, self.device, chunk)
        model = self._model(train=False)
        headless = copy.copy(model)
        headless.forward = model.features  # type: ignore[method-assign]
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
        every = AllSamples(questions, self.device, chunk)
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

    def _model(self, train: bool) -> ImageModel:
        return self._models[self.convolution or "grouped"].train(train)

    def _forward(self, model: ImageModel, rows: Tensor, images: Tensor) -> Tensor:
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
        forward = partial(_features_and_logits, self._model(train))
        model.forward = forward  # type: ignore[assignment]
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

    def _memory_for(self, task: Task, plan: BatchPlan) -> StepMemory:
        """The fixed memory that steps of this kind work on, kept from round to round.

        A method may train several kinds of task in turn, so the latest few are kept.
        """
        for number, memory in enumerate(self._memories):
            if (
                memory.variables.shape == task.variables.shape
                and memory.weight.shape == plan.weight.shape[1:]
                and memory.task.like(task)
            ):
                self._memories.insert(0, self._memories.pop(number))
                return memory
        del self._memories[KEPT_MEMORIES - 1 :]  # memory is free before the next takes as much
        self._memories.insert(0, StepMemory(task, plan))
        return self._memories[0]

    def _step(
        self,
        memory: StepMemory,
        plan: BatchPlan,
        data: ClientData,
        phase: Hashable,
        epoch: int,
        number: int,
        rows: slice,
        samples: int,
    ) -> None:
        """One step of the clients `rows`, with the first `samples` places of their batches."""
        memory.index[rows].copy_(plan.index[epoch, number, rows])
        memory.weight[rows].copy_(plan.weight[number, rows])
        memory.draw[rows].copy_(plan.draws[epoch, number, rows])

        def step() -> None:
            task, variables = memory.task, memory.variables[rows]
            given = {name: tensor[rows] for name, tensor in memory.given.items()}
            images, labels = data.take(memory.index[rows, :samples])
            weight = memory.weight[rows, :samples]
            direction = task.direction(
                variables,
                given,
                phase,
                lambda models: self._gradient(
                    models, images, labels, weight, True, task.feature_decay
                ),
                memory.draw[rows],
            )
            sgd_step(
                variables,
                memory.velocity[rows],
                direction,
                task.mask(given, phase),
                memory.lr[rows],
                memory.momentum[rows],
            )
            task.project(variables, given)

        # Steps of single clients are too many kinds to record.
        if not self.graphs or samples < plan.batch_size:
            step()
            return
        key = (phase, rows.start, rows.stop)
        if key not in memory.recorded:
            memory.recorded[key] = self._record(memory, step)
        memory.recorded[key]()

    def _record(self, memory: StepMemory, step: Callable[[], None]) -> Callable[[], None]:
        """`step` as a CUDA graph; where that fails, `step` itself, with a word about it."""
        saved = memory.variables.clone(), memory.velocity.clone()
        try:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):  # libraries choose their algorithms outside of the graph
                    step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=memory.pool()):
                step()
            replay = graph.replay
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            print(f"steps run without CUDA graphs, so slower: {reason}", file=sys.stderr)
            self.graphs, replay = False, step
        memory.variables.copy_(saved[0])
        memory.velocity.copy_(saved[1])
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
            _FASTEST[key] = min(seconds, key=lambda kind: seconds[kind])
        return _FASTEST[key]

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


_FASTEST: dict[Hashable, str] = {}


def _prepared(model: ImageModel, device: torch.device) -> ImageModel:
    model = copy.deepcopy(model).to(device)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.num_batches_tracked = None  # a counter nobody reads, which vmap cannot raise
    return model


def _features_and_logits(model: ImageModel, images: Tensor) -> tuple[Tensor, Tensor]:
    features = model.features(images)
    return features, model.classifier(features)
