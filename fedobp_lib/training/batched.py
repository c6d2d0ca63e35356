"""The batched back-end: one step for all clients of a cohort at once, the choice for a GPU.

The clients' models are the rows of one matrix, and `vmap` turns the forward and backward pass
of one model into that of all. Clients are sorted by their number of samples, so those that
still have a batch in an epoch are always the first rows, and finished ones cost nothing. A last,
short batch is filled up with samples of weight zero. Everything a round needs is sent to the
device before it begins and no step waits for the host. On a GPU, stretches of steps by the same
clients are recorded once as CUDA graphs and replayed (`recording`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.clients import ClientData
from ..models.networks import ImageModel
from ..models.parameters import ParameterLayout
from . import model_stack
from .fisher import SampleSquares
from .heads import HeadBackend
from .model_stack import ModelStack
from .plan import AllSamples, BatchPlan, Stretch, alike
from .step_memory import StepMemory
from .tasks import Task
from .trainer import Job, Question
from .update import update

KEPT_MEMORIES = 6
M = TypeVar("M", bound=Callable[..., Any])


def _on_own_device(method: M) -> M:
    """Work on a GPU that is not the first: kernels, streams and graphs go to the current one."""

    @wraps(method)
    def guarded(self: BatchedBackend, *args: Any, **kwargs: Any) -> Any:
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            return method(self, *args, **kwargs)

    return guarded  # type: ignore[return-value]


class BatchedBackend:
    """Train, differentiate and test the models of many clients as one stack.

    Args:
        model: supplies the forward pass; its own weights are not used.
        layout: the layout of a row.
        device: where to compute.
        precision: `fp32`, `tf32` (GPU) or `bf16` (autocast); `gpu.prepare` has set the switches.
        convolution: one of `CONVOLUTIONS`, or None: the fastest, measured on first use.
        graphs: record steps as CUDA graphs; None: on a GPU.
    """

    name = "batched"

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
        self.heads = HeadBackend(layout, precision, stacked=True)
        self.graphs = device.type == "cuda" if graphs is None else graphs
        self.stack = ModelStack(model, layout, device, precision, convolution)
        # Batch statistics see the whole batch: nothing may be filled up, and one sample is none.
        self._exact_batches = layout.size > layout.parameters
        self._memories: list[StepMemory] = []  # the latest first

    @_on_own_device
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
        if self.stack.convolution is None:
            self.stack.choose_convolution(
                jobs[0].data, plan.batch_size, len(plan.order), self.graphs
            )
        memory = self._memory_for(task, jobs[0].data, plan.batch_size)
        memory.begin(task, plan)
        for epoch in range(plan.epochs):
            phase = task.phase(epoch, plan.epochs)
            for stretch in plan.stretches(self._exact_batches):
                self._take_steps(memory, plan, phase, epoch, stretch)
        trained = torch.empty_like(memory.variables)
        trained[plan.order] = memory.variables
        return list(trained.split([len(job.clients) for job in jobs]))

    @_on_own_device
    def gradient(self, questions: Sequence[Question], chunk: int = 128) -> list[Tensor]:
        """See `Backend`."""
        every = AllSamples(questions, self.device, chunk)
        total = torch.zeros(len(every.rows), self.layout.parameters, device=self.device)
        for n, images, labels, weight in every:
            scaled = weight / every.counts[:n, None]
            gradients = self.stack.gradient(every.rows[:n], images, labels, scaled, train=False)
            total[:n] += gradients[:, : self.layout.parameters]
        return every.unsort(total)

    @_on_own_device
    def fisher(self, questions: Sequence[Question], chunk: int = 128) -> list[Tensor]:
        """See `Backend`. One model after another: each is many samples, and it is once a round."""
        squares = SampleSquares(self.stack.plain, self.layout, self.precision)
        results = []
        for q in questions:
            rows = []
            for row, client in zip(q.rows, q.clients, strict=True):
                index = torch.from_numpy(q.data.of(q.part, client)).to(self.device)
                rows.append(squares.mean(row, *q.data.take(index), chunk))
            results.append(torch.stack(rows))
        return results

    @_on_own_device
    @torch.no_grad()
    def features(self, questions: Sequence[Question], chunk: int = 256) -> list[list[Tensor]]:
        """See `Backend`."""
        every = AllSamples(questions, self.device, chunk)
        parts: list[list[Tensor]] = [[] for _ in every.rows]
        for n, images, _, _ in every:
            features = self.stack.ask(every.rows[:n], images, model_stack.features).float()
            for part, feature in zip(parts, features, strict=False):
                part.append(feature)
        return every.unsort([torch.cat(p)[: every.length(k)] for k, p in enumerate(parts)])

    @_on_own_device
    @torch.no_grad()
    def test(self, questions: Sequence[Question], chunk: int = 256) -> list[tuple[Tensor, Tensor]]:
        """See `Backend`."""
        every = AllSamples(questions, self.device, chunk)
        correct = torch.zeros(len(every.rows), dtype=torch.int64, device=self.device)
        losses = torch.zeros(len(every.rows), dtype=torch.float64, device=self.device)
        for n, images, labels, weight in every:
            logits = self.stack.ask(every.rows[:n], images, model_stack.logits)
            right = (logits.argmax(2) == labels) & (weight > 0)
            correct[:n] += right.sum(1)
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
            losses[:n] += (loss.view_as(weight) * weight).sum(1, dtype=torch.float64)
        return list(zip(every.unsort(correct), every.unsort(losses), strict=True))

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
            lambda models: self.stack.gradient(
                models, images, labels, weight, True, task.feature_decay
            ),
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
