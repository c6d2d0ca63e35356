"""The batched back-end: one step for all clients of a cohort at once, the choice for a GPU.

The clients' models are the rows of one matrix, and `vmap` turns the forward and backward pass
of one model into that of all. Clients are sorted by their number of samples, so those that
still have a batch in an epoch are always the first rows, and finished ones cost nothing. A last,
short batch is filled up with samples of weight zero. Everything a round needs is sent to the
device before it begins and no step waits for the host. On a GPU, stretches of steps by the same
clients are recorded once as CUDA graphs and replayed (`recording`).
"""

from __future__ import annotations

import copy
import time
import types
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..data.clients import ClientData
from ..models.networks import ImageModel
from ..models.parameters import ParameterLayout
from .convolutions import CONVOLUTIONS, with_convolution
from .fisher import sample_squares
from .plan import AllSamples, BatchPlan, Stretch, alike
from .precision import autocast
from .recording import Recorder
from .stacked_layers import names_of_stacked, set_places
from .step_memory import StepMemory
from .tasks import Task
from .trainer import Job, Question
from .update import update

KEPT_MEMORIES = 6
Ask = Callable[[ImageModel, Tensor], Any]


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
        self.convolution = convolution
        self.graphs = device.type == "cuda" if graphs is None else graphs
        prepared = _prepared(model, device)
        self._plain = copy.deepcopy(prepared)
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
        if self.convolution is None:
            self.convolution = self._fastest_convolution(jobs[0].data, plan)
        memory = self._memory_for(task, jobs[0].data, plan.batch_size)
        memory.begin(task, plan)
        for epoch in range(plan.epochs):
            phase = task.phase(epoch, plan.epochs)
            for stretch in plan.stretches(self._exact_batches):
                self._take_steps(memory, plan, phase, epoch, stretch)
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

    def fisher(self, questions: Sequence[Question], chunk: int = 8) -> list[Tensor]:
        """See `Backend`."""
        every = AllSamples(questions, self.device, chunk)
        total = torch.zeros(len(every.rows), self.layout.parameters, device=self.device)
        squares = sample_squares(self._plain.eval(), self.layout, self.precision)
        for n, images, labels, weight in every:
            total[:n] += vmap(squares)(self.layout.views(every.rows[:n]), images, labels, weight)
        return every.unsort(total / every.counts[:, None])

    @torch.no_grad()
    def features(self, questions: Sequence[Question], chunk: int = 256) -> list[list[Tensor]]:
        """See `Backend`."""
        every = AllSamples(questions, self.device, chunk)
        model = self._model(train=False)
        parts: list[list[Tensor]] = [[] for _ in every.rows]
        for n, images, _, _ in every:
            with autocast(self.device, self.precision):
                features = self._forward(model, every.rows[:n], images, _features).float()
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
                logits = self._forward(model, every.rows[:n], images, _logits)
            right = (logits.argmax(2) == labels) & (weight > 0)
            correct[:n] += right.sum(1)
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
            losses[:n] += (loss.view_as(weight) * weight).sum(1, dtype=torch.float64)
        return list(zip(every.unsort(correct), every.unsort(losses), strict=True))

    def _model(self, train: bool) -> ImageModel:
        return self._models[self.convolution or "grouped"].train(train)

    def _forward(
        self, model: ImageModel, rows: Tensor | dict[str, Tensor], images: Tensor, ask: Ask
    ) -> Any:
        """What models, rows or their tensors by name, answer about images (n, batch, ...)."""
        views = self.layout.views(rows) if isinstance(rows, Tensor) else rows
        asked = copy.copy(model)
        asked.forward = partial(ask, model)  # type: ignore[method-assign]

        def forward(tensors: dict[str, Tensor], images: Tensor) -> Any:
            return functional_call(asked, tensors, (images,))

        return vmap(forward)(views, images)

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
        layout, model = self.layout, self._model(train)
        flat = torch.empty_like(rows)
        if layout.size > layout.parameters:
            flat[:, layout.parameters :].zero_()
        views, places = layout.views(rows.detach()), layout.views(flat)
        if self.precision == "bf16":  # one pass over the rows, not one for every layer
            low = layout.views(rows.to(torch.bfloat16))
            views |= {name: low[name] for name in names_of_stacked(model)}
        trained = [n for n in views if layout.spans[n].start < layout.parameters]
        for name in trained:
            views[name].requires_grad_()
        set_places(model, places)
        with torch.enable_grad(), autocast(self.device, self.precision):
            features, logits = self._forward(model, views, images, _features_and_logits)
        set_places(model, None)
        # The gradient of the weighted cross entropy.
        error = logits.detach().float().softmax(2).mul_(weight[..., None])
        error.scatter_add_(2, labels[..., None], -weight[..., None])
        of, upstream = [logits], [error.to(logits.dtype)]
        if feature_decay:
            of.append(features)
            upstream.append(2 * feature_decay * features.detach() * (weight > 0)[..., None])
        gradients = torch.autograd.grad(
            of, [views[n] for n in trained], upstream, allow_unused=True
        )
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:  # else its layer has written it
                places[name].copy_(gradient)
        return flat

    def _memory_for(self, task: Task, data: ClientData, batch_size: int) -> StepMemory:
        """The fixed memory that steps of this kind work on, kept from round to round.

        A method may train several kinds of task in turn, so the latest few are kept.
        """
        for number, memory in enumerate(self._memories):
            if memory.fits(task, data, batch_size):
                self._memories.insert(0, self._memories.pop(number))
                return memory
        del self._memories[KEPT_MEMORIES - 1 :]  # memory is free before the next takes as much
        self._memories.insert(0, StepMemory(task, data, batch_size))
        return self._memories[0]

    def _take_steps(
        self, memory: StepMemory, plan: BatchPlan, phase: Hashable, epoch: int, stretch: Stretch
    ) -> None:
        """The steps of a stretch, replayed where they are recorded."""
        rows = stretch.rows
        if self.graphs and stretch.samples < plan.batch_size:
            # A client alone with a short batch: one memory for all, whichever row it is in.
            with memory.alone(rows) as single:
                single.load(plan, epoch, stretch, slice(0, 1))
                self._replay(single, phase, slice(0, 1), stretch)
            return
        memory.load(plan, epoch, stretch, rows)
        self._replay(memory, phase, rows, stretch)

    def _replay(self, memory: StepMemory, phase: Hashable, rows: slice, stretch: Stretch) -> None:
        def steps() -> None:
            for place in range(stretch.steps):
                self._step(memory, phase, place, rows, stretch.samples)

        if self.graphs:
            key = phase, rows.start, rows.stop, stretch.samples, stretch.steps
            self.graphs = memory.recorder.run(key, steps, memory.changing)
        else:
            steps()

    def _step(
        self, memory: StepMemory, phase: Hashable, place: int, rows: slice, samples: int
    ) -> None:
        """One step of the clients `rows`, with the first `samples` places of their batches.

        Args:
            memory: loaded with the steps of a stretch.
            phase: of the task.
            place: of the step in the stretch.
        """
        task, variables = memory.task, memory.variables[rows]
        given = {name: tensor[rows] for name, tensor in memory.given.items()}
        images, labels = memory.data.take(memory.index[place, rows, :samples])
        weight = memory.weight[place, rows, :samples]
        direction = task.direction(
            variables,
            given,
            phase,
            lambda models: self._gradient(models, images, labels, weight, True, task.feature_decay),
            memory.draw[place, rows],
        )
        update(
            variables,
            memory.velocity[rows],
            direction,
            task.mask(given, phase),
            memory.lr[rows],
            memory.momentum[rows],
        )
        task.project(variables, given)

    def _fastest_convolution(self, data: ClientData, plan: BatchPlan) -> str:
        """The fastest way to compute convolutions here, measured once a device and cohort size.

        On a GPU replays are timed, as steps are replayed. A way that fails is no way.
        """
        clients = len(plan.order)
        key = (str(self.device), type(self._models["grouped"]), data.images.shape[1:],
               self.precision, plan.batch_size, clients, self.graphs)  # fmt: skip
        if key not in _FASTEST:
            index = torch.zeros(clients, plan.batch_size, dtype=torch.int64, device=self.device)
            images, labels = data.take(index)
            weight = torch.full_like(labels, 1 / plan.batch_size, dtype=torch.float32)
            rows = torch.zeros(clients, self.layout.size, device=self.device)
            seconds, failed = {}, []
            for kind in CONVOLUTIONS:
                self.convolution = kind
                recorder = Recorder(self.device)

                def step() -> None:
                    self._gradient(rows, images, labels, weight, train=True)

                times = []
                try:
                    for _ in range(5):
                        began = self._clock()
                        if self.graphs:
                            recorder.run(kind, step, [])
                        else:
                            step()
                        times.append(self._clock() - began)
                except RuntimeError as error:
                    failed.append(error)
                    continue
                seconds[kind] = min(times)
            if not seconds:
                raise failed[0]
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
            module.forward = types.MethodType(_batch_norm, module)  # type: ignore[method-assign]
    return model


def _batch_norm(self: nn.modules.batchnorm._NormBase, x: Tensor) -> Tensor:
    """Without cuDNN, whose backward pass `vmap` refuses for channels-last and mixed precisions."""
    out = torch.native_batch_norm(
        x.float(), self.weight, self.bias, self.running_mean, self.running_var,
        self.training, self.momentum, self.eps,
    )[0]  # fmt: skip
    return out.to(x.dtype)


def _features(model: ImageModel, images: Tensor) -> Tensor:
    return model.features(images)


def _logits(model: ImageModel, images: Tensor) -> Tensor:
    return model.classifier(model.features(images))


def _features_and_logits(model: ImageModel, images: Tensor) -> tuple[Tensor, Tensor]:
    features = model.features(images)
    return features, model.classifier(features)
