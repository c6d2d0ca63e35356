"""The rounds of one run in memory; `runs.execution.run` keeps them on disk."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import forks
from .config import ResolvedConfig, RunConfig
from .data.clients import FINE_TUNE, sample_cohort
from .data.images import ImageData
from .data.partition import Partition
from .federation import build_federation
from .methods import ON_DEVICE, Bank, BankPlace, Method, make_method
from .methods.kept_rows import first_rows, keep_state, restore_state
from .progress import progress_bar
from .training.evaluation import STAGES, Scores, evaluate
from .training.groups import Groups
from .training.trainer import Backend

HISTORY = ["round", "stage", "scope", "average", "accuracy", "loss"]
LAYERS = ["round", "layer", "parameters", "personalized"]

# Clients whose models are in memory at once when all clients are tested.
GROUP = 10


def simulate(
    config: RunConfig,
    data: ImageData,
    device: torch.device | str = "cpu",
    partition: Partition | None = None,
    backend: str | Backend = "auto",
    place: BankPlace = ON_DEVICE,
) -> Simulation:
    """A run, ready for its first round; see `build_federation` for the arguments.

    Raises:
        UserError: the configuration cannot be run.
    """
    resolved = config.resolved(device)
    if partition is not None:
        resolved = replace(resolved, clients=partition.clients)
    federation = build_federation(resolved, data, device, partition, backend, place)
    return Simulation(resolved, make_method(resolved.method, federation, resolved.settings))


class Simulation:
    """Runs a method round by round.

    Args:
        config: the run.
        method: the method in its federation, as `simulate` builds them.

    Attributes:
        round: rounds finished.
        history: rows of `HISTORY`; accuracies in percent, losses in nats.
        layers: rows of `LAYERS`; mean number of personalized parameters of the round's
            clients, layer by layer.
        seconds: time spent on `rounds` (merging, training, averaging), on the `tests`, and on
            `tuning` all clients' models for them.
        final: after the last round, the `Scores` by stage of the clients `tested`: of all that
            are honest.
        diverged: None, or why there are no more rounds: `round`, `client` (None: not known) and
            `what` went wrong.
    """

    def __init__(self, config: ResolvedConfig, method: Method) -> None:
        self.config = config
        self.method = method
        self.data = method.federation.data
        self.layout = method.federation.layout
        self.trainer = method.federation.trainer
        self.device = self.data.device
        self.round = 0
        self.history: list[list[Any]] = []
        self.layers: list[list[Any]] = []
        self.seconds = {"rounds": 0.0, "tests": 0.0, "tuning": 0.0}
        self.final: dict[str, Scores] = {}
        adversaries = method.federation.adversaries
        self._dishonest = None if adversaries is None else torch.from_numpy(adversaries.members)
        self.tested = np.arange(self.data.clients)
        if adversaries is not None:
            self.tested = np.flatnonzero(~adversaries.members)
        self.diverged: dict[str, Any] | None = None
        self._groups = Groups(self.device, "testing")
        self._first = first_rows(method.state, self.data.clients)

    @property
    def done(self) -> bool:
        return self.diverged is not None or self.round >= self.config.rounds

    @property
    def tests_cohort(self) -> bool:
        """Whether the clients of the present round are tested."""
        return self.done or self.round % self.config.eval_cohort == 0

    def run(self, progress: bool = True) -> None:
        """Run the rounds that are left, under a progress bar."""
        with progress_bar(self.config.rounds, progress, done=self.round) as shown:
            while not self.done:
                self.step()
                shown.update()

    @forks.computing()
    def step(self) -> None:
        """Run one communication round, with its evaluations; one that diverges is the last."""
        self.round += 1
        self.method.round = self.round
        cohort = sample_cohort(
            self.config.seed, self.round, self.data.clients, self.config.cohort_size
        )
        try:
            self._take_round(torch.from_numpy(cohort).to(self.device))
        except _Diverged as stop:
            self.diverged = {"round": self.round, "client": stop.client, "what": stop.what}
        except torch.linalg.LinAlgError as error:  # of numbers that are too large
            what = str(error).splitlines()[0].split(" because")[0]
            self.diverged = {"round": self.round, "client": None, "what": what}

    def _take_round(self, clients: Tensor) -> None:
        began = self._clock()
        start, personal = self.method.start(clients)
        trained = self.method.train(start, clients)
        _require_finite(
            trained.isfinite().all(1), clients, "a parameter is not finite after training"
        )
        ended = self._clock()

        honest = self._honest(clients)
        if self.tests_cohort:
            for stage, rows in zip(STAGES, (start, trained), strict=True):
                self._record(stage, "cohort", self._test_cohort(rows[honest], clients[honest]))
        if personal is not None and personal.ndim == 2 and len(personal) == len(clients):
            personal = personal[honest]
        self._record_layers(personal)
        evaluated = self._clock()

        self.method.finish(clients, start, trained)
        finished = self._clock()
        self.seconds["rounds"] += ended - began + finished - evaluated

        tuned = self.seconds["tuning"]
        if self.done or self.round % self.config.eval_every == 0:
            self._evaluate_all()
        tuning = self.seconds["tuning"] - tuned
        self.seconds["tests"] += evaluated - ended + self._clock() - finished - tuning

    def _honest(self, clients: Tensor) -> Tensor | slice:
        """Which of the clients are measured."""
        if self._dishonest is None:
            return slice(None)
        return ~self._dishonest.to(clients.device)[clients]

    def _test_cohort(self, rows: Tensor, clients: Tensor) -> Scores:
        count = len(clients)
        if not count:  # all of them are Byzantine, so there is nothing to tell
            none = torch.empty(0, dtype=torch.int64)
            return Scores(none, none.double(), none)
        parts = self._groups.each(count, count, lambda k: self._test(rows[k], clients[k]))
        return Scores.join(parts)

    def _test(self, rows: Tensor, clients: Tensor) -> Scores:
        scores = evaluate(self.trainer, self.method.models(rows, clients), clients.tolist())
        _require_finite(scores.loss.isfinite(), clients, "the loss is not finite")
        return scores

    def _evaluate_all(self) -> None:
        """Test every client's model, and where asked the same model after fine-tuning."""
        when = self.config.eval_after
        tune = when == "always" or (when == "final" and self.done)
        for stage, joined in zip(STAGES, self._test_all(tune), strict=False):
            self._record(stage, "all", joined)
            if self.done:
                self.final[stage] = joined

    def _test_all(self, tune: bool) -> list[Scores]:
        """Scores of all clients, and of their models after fine-tuning."""
        everyone = torch.from_numpy(self.tested).to(self.device)

        def test(some: slice) -> list[Scores]:
            clients = everyone[some]
            start, _ = self.method.start(clients)
            scores = [self._test(start, clients)]
            if tune:
                began = self._clock()
                tuned = self.method.train(start, clients, FINE_TUNE)
                self.seconds["tuning"] += self._clock() - began
                scores.append(self._test(tuned, clients))
            return scores

        groups = self._groups.each(len(everyone), GROUP, test)
        return [Scores.join(parts) for parts in zip(*groups, strict=True)]

    def _record(self, stage: str, scope: str, scores: Scores) -> None:
        for average, (accuracy, loss) in scores.summary().items():
            self.history.append([self.round, stage, scope, average, accuracy, loss])

    def _record_layers(self, personal: Tensor | None) -> None:
        if personal is not None:
            masks = personal.expand(*personal.shape[:-1], self.layout.parameters)
            masks = masks.reshape(-1, self.layout.parameters)
        for layer, columns in self.layout.layers.items():
            # Whole numbers are added, so that the sum is the same with any number of threads.
            mean = 0.0
            if personal is not None:
                total = masks[:, columns].sum().item()
                mean = total / len(masks) if len(masks) else math.nan
            self.layers.append([self.round, layer, columns.stop - columns.start, mean])

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def state(self) -> dict[str, Any]:
        """All that a later `load_state` needs to go on as if nothing had happened.

        Rows that are on disk stay there, and what refers to them is here. Once this is kept for
        good, and only then, say so with `commit_state`.
        """
        return {
            "round": self.round,
            "history": self.history,
            "layers": self.layers,
            "seconds": self.seconds,
            "method": keep_state(self.method.state, self._first),
        }

    def commit_state(self) -> None:
        """What only an older `state` refers to may be overwritten."""
        for value in self.method.state.values():
            if isinstance(value, Bank):
                value.commit()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`, whose tensors may be on any device, before the first round.

        Raises:
            KeyError, TypeError, ValueError, OSError: it is not whole, or of another run; nothing is
                changed.
            HalfRestored: reading failed later; this simulation is of no use.
        """
        _require_fitting(state, self.seconds, self.config)
        folder = self.method.federation.place.folder
        restore_state(state["method"], self.method.state, self._first, folder)
        self.round = self.method.round = state["round"]
        self.history = state["history"]
        self.layers = state["layers"]
        self.seconds = state["seconds"]

    def history_frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.history, columns=HISTORY)

    def layers_frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.layers, columns=LAYERS)

    def clients_frame(self) -> pd.DataFrame:
        """One row a client after the last round: sample counts and final accuracy by stage."""
        frame = pd.DataFrame(
            {
                "client": np.arange(self.data.clients),
                "train_samples": self.data.train_counts.cpu().numpy(),
                "test_samples": np.diff(self.data.partition.test_offsets),
            }
        )
        for stage, scores in self.final.items():
            accuracy = pd.Series(scores.accuracy.numpy(), index=self.tested)
            frame[f"accuracy_{stage}"] = accuracy.reindex(frame.index)
        return frame


def _require_fitting(state: dict[str, Any], own: dict[str, float], config: ResolvedConfig) -> None:
    """Raise where a kept state cannot take the place of a simulation's own, whose times are `own`;
    the method's part is left to `restore_state`."""
    now = state["round"]
    if type(now) is not int or not 0 < now < config.rounds:
        raise ValueError("the state is of no round in between")
    tested = max(now - now % every for every in (config.eval_cohort, config.eval_every))
    for name, columns, last in (("history", HISTORY, tested), ("layers", LAYERS, now)):
        rows = state[name]
        whole = (rows[-1][0] if rows else 0) == last
        if not whole or any(len(row) != len(columns) for row in rows):
            raise ValueError(f"the state lacks a part of its {name}")
    if state["seconds"].keys() != own.keys():
        raise KeyError("the state has other times")
    if any(type(seconds) is not float for seconds in state["seconds"].values()):
        raise TypeError("the state has times that are no numbers")


class _Diverged(Exception):
    """A number is infinite or none at all."""

    def __init__(self, client: int, what: str) -> None:
        super().__init__(what)
        self.client, self.what = client, what


def _require_finite(finite: Tensor, clients: Tensor, what: str) -> None:
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise _Diverged(int(clients[first]), what)
