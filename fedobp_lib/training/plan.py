"""Which samples a cohort sees in which step: all batches of a round, laid out beforehand.

Clients are sorted by their number of samples, so those that still have a batch are always the
first rows, and finished ones cost nothing. A short batch is filled up with samples of weight zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from .trainer import Job, Question

# Steps are recorded in stretches of these lengths, so that few kinds of them come.
STRETCHES = (16, 4, 1)
LONGEST_STRETCH = STRETCHES[0]


@dataclass(frozen=True)
class Stretch:
    """Steps of an epoch, one after another, that the same clients take.

    Attributes:
        first, steps: number of the first one, from 0, and how many.
        rows: the clients.
        samples: how many places of their batches they use.
    """

    first: int
    steps: int
    rows: slice
    samples: int


@dataclass(frozen=True)
class BatchPlan:
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
    def of(cls, jobs: Sequence[Job], device: torch.device) -> BatchPlan:
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

    def stretches(self, exact: bool) -> list[Stretch]:
        """The steps of an epoch; those of one client are in order.

        Args:
            exact: short batches are not filled up: a client takes such a step alone, at the end,
                and a batch of one sample is left out.
        """
        size = self.batch_size
        begun = np.arange(self.steps)[:, None] * size
        left = self.counts - begun
        active = (left >= size if exact else left > 0).sum(1)
        found = []
        for clients in dict.fromkeys(active[active > 0].tolist()):
            first, count = int((active > clients).sum()), int((active == clients).sum())
            for length in STRETCHES:
                while count >= length:
                    found.append(Stretch(first, length, slice(0, clients), size))
                    first, count = first + length, count - length
        if exact:
            found += [
                Stretch(int(count) // size, 1, slice(k, k + 1), int(count) % size)
                for k, count in enumerate(self.counts)
                if count % size > 1
            ]
        return found


class AllSamples:
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
        self._order = order.tolist()
        self._chunk = int(min(chunk, counts.max()))
        length = -(-counts.max() // self._chunk) * self._chunk
        index = np.zeros((len(counts), length), np.int64)
        for place, client in enumerate(order):
            index[place, : counts[client]] = samples[client]
        self._index = _send(torch.from_numpy(index), device)
        weight = np.arange(length) < self._counts[:, None]
        self._weight = _send(torch.from_numpy(weight.astype(np.float32)), device)
        self.rows = torch.cat([q.rows for q in questions])[_send(torch.from_numpy(order), device)]
        self.counts = _send(torch.from_numpy(self._counts.astype(np.float32)), device)

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
        back = dict(zip(self._order, values, strict=True))
        ordered = iter([back[k] for k in range(len(back))])
        parts = [list(islice(ordered, size)) for size in self._sizes]
        return [torch.stack(p) for p in parts] if isinstance(values, Tensor) else parts


def alike(jobs: Sequence[Job]) -> list[list[int]]:
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


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device without waiting for it."""
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
