"""The rounds. A `Simulation` is one run in memory; `runs.run` keeps it on disk."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from .batched import BatchedBackend
from .clients import FINE_TUNE, INIT, ClientData, sample_cohort, stream
from .config import PROTOCOLS, RunConfig
from .datasets import ImageData
from .errors import UserError, unknown
from .evaluation import Scores, evaluate
from .methods import Federation, find_method, make_settings
from .models import build_model
from .paper import table5_quantile
from .parameters import ParameterLayout
from .partition import Partition, dirichlet_partition
from .progress import progress_bar
from .training import Backend, LocalSettings, LoopBackend, Trainer

HISTORY = ["round", "stage", "scope", "average", "accuracy", "loss"]
LAYERS = ["round", "layer", "parameters", "personalized"]

BACKENDS = ("auto", "loop", "batched")

# Clients whose models are in memory at once when all clients are tested.
GROUP = 10


def choose_device(name: str = "auto") -> torch.device:
    """The device to run on: `auto` takes a GPU if there is one.

    Raises:
        UserError: a GPU was asked for where none is, or the name is no device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{name!r} is not a device; use auto, cpu or cuda") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device {name!r} was asked for, but this machine has no usable GPU")
        if (device.index or 0) >= torch.cuda.device_count():
            raise UserError(f"there is no GPU {device.index}; GPUs: {torch.cuda.device_count()}")
    elif device.type != "cpu":
        raise UserError(f"device {name!r} is not supported; use auto, cpu or cuda")
    return device


def make_backend(
    name: str,
    model: nn.Module,
    layout: ParameterLayout,
    device: torch.device,
    precision: str = "fp32",
) -> Backend:
    """The training back-end `loop`, `batched` or, by `auto`, the one that suits the device.

    Raises:
        UserError: unknown name, or a precision the device does not have.
    """
    if name not in BACKENDS:
        raise unknown("back-end", name, BACKENDS)
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision 'tf32' needs a GPU; a CPU has fp32 and bf16")
    if precision == "bf16" and device.type == "cpu" and not bf16_is_native():
        print(
            "this CPU has no bf16 instructions: bf16 works, but slower than fp32", file=sys.stderr
        )
    batched = name == "batched" or (name == "auto" and device.type == "cuda")
    return (BatchedBackend if batched else LoopBackend)(model, layout, device, precision)


def bf16_is_native() -> bool:
    """Whether the CPU has bf16 instructions (AVX512-BF16 or AMX); True if PyTorch cannot tell."""
    asks = [
        getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")
    ]
    return any(ask is None or ask() for ask in asks)


def make_partition(config: RunConfig, data: ImageData) -> Partition:
    """The partition a (resolved) configuration asks for, checked against the data set."""
    if config.partition is not None:
        partition = Partition.load(config.partition)
        partition.check(len(data.labels), f"partition file {config.partition!r}")
        if config.clients not in (None, partition.clients):
            raise UserError(
                f"partition file {config.partition!r} has {partition.clients} clients, "
                f"not {config.clients}"
            )
        return partition
    return dirichlet_partition(
        data.labels,
        config.clients,
        config.alpha,
        config.partition_seed,
        config.test_share,
        config.min_samples,
    )


class Simulation:
    """Runs a configuration round by round.

    Args:
        config: the run; resolved here.
        data: its data set.
        device: where to compute.
        partition: the split; None: the one `config` describes.
        backend: `loop`, `batched` or `auto`: loop on a CPU, batched on a GPU; or one that is
            there already.

    Attributes:
        round: rounds finished.
        history: rows of `HISTORY`; accuracies in percent, losses in nats.
        layers: rows of `LAYERS`; mean number of personalized parameters of the round's
            clients, layer by layer.
        seconds: time spent on `rounds` (merging, training, averaging) and on `evaluation`.
        final: after the last round, every client's `Scores` by stage.
    """

    def __init__(
        self,
        config: RunConfig,
        data: ImageData,
        device: torch.device | str = "cpu",
        partition: Partition | None = None,
        backend: str | Backend = "auto",
    ) -> None:
        config = config.resolved()
        partition = partition or make_partition(config, data)
        self.config = replace(config, clients=partition.clients)
        self.device = torch.device(device)
        mean, std = data.normalization(config.pixels)
        self.data = ClientData(
            *data.on(self.device), partition, mean, std, data.classes, self.device, config.seed
        )
        init_seed = int(stream(config.seed, INIT).integers(2**63))
        model = build_model(
            config.model, data.images.shape[1:], data.classes, init_seed, config.pretrained
        )
        self.layout = ParameterLayout.of(model)
        initial = self.layout.flatten(model).to(self.device)
        settings = LocalSettings(config.local_epochs, config.batch_size, config.lr, config.momentum)
        if isinstance(backend, str):
            backend = make_backend(backend, model, self.layout, self.device, config.precision)
        self.trainer = Trainer(backend, self.data, settings)
        method = find_method(config.method)
        self.method = method(
            Federation(
                initial=initial,
                layout=self.layout,
                data=self.data,
                trainer=self.trainer,
                quantile_rule=PROTOCOLS[config.protocol]["quantile_rule"],
                quantile=table5_quantile(config.dataset, config.alpha),
                rounds=config.rounds,
            ),
            make_settings(method, config.settings),
        )
        self.round = 0
        self.history: list[list[Any]] = []
        self.layers: list[list[Any]] = []
        self.seconds = {"rounds": 0.0, "evaluation": 0.0}
        self.final: dict[str, Scores] = {}

    @property
    def done(self) -> bool:
        return self.round >= self.config.rounds

    def run(self, progress: bool = True) -> None:
        """Run the rounds that are left, under a progress bar."""
        with progress_bar(self.config.rounds, progress, done=self.round) as shown:
            while not self.done:
                self.step()
                shown.update()

    def step(self) -> None:
        """Run one communication round, with its evaluations."""
        self.round += 1
        self.method.round = self.round
        cohort = sample_cohort(
            self.config.seed,
            self.round,
            self.data.clients,
            self.config.cohort_size(self.data.clients),
        )
        clients = torch.from_numpy(cohort).to(self.device)

        began = self._clock()
        start, personal = self.method.start(clients)
        trained = self.method.train(start, clients)
        ended = self._clock()

        self._record("before", "cohort", self._test(start, clients))
        self._record("after", "cohort", self._test(trained, clients))
        self._record_layers(personal, len(cohort))
        evaluated = self._clock()

        self.method.finish(clients, start, trained)
        finished = self._clock()
        self.seconds["rounds"] += ended - began + finished - evaluated

        if self.done or self.round % self.config.eval_every == 0:
            self._evaluate_all()
        self.seconds["evaluation"] += evaluated - ended + self._clock() - finished

    def _test(self, rows: Tensor, clients: Tensor) -> Scores:
        return evaluate(self.trainer, self.method.models(rows, clients), clients.tolist())

    def _evaluate_all(self) -> None:
        """Test every client's model, and where asked the same model after fine-tuning."""
        when = self.config.eval_after
        tune = when == "always" or (when == "final" and self.done)
        scores: dict[str, list[Scores]] = {"before": [], "after": []} if tune else {"before": []}
        for clients in torch.arange(self.data.clients, device=self.device).split(GROUP):
            start, _ = self.method.start(clients)
            scores["before"].append(self._test(start, clients))
            if tune:
                tuned = self.method.train(start, clients, FINE_TUNE)
                scores["after"].append(self._test(tuned, clients))
        for stage, parts in scores.items():
            joined = Scores.join(parts)
            self._record(stage, "all", joined)
            if self.done:
                self.final[stage] = joined

    def _record(self, stage: str, scope: str, scores: Scores) -> None:
        for average, (accuracy, loss) in scores.summary().items():
            self.history.append([self.round, stage, scope, average, accuracy, loss])

    def _record_layers(self, personal: Tensor | None, cohort: int) -> None:
        if personal is not None:
            personal = personal.expand(*personal.shape[:-1], self.layout.parameters)
            personal = personal.double().reshape(-1, self.layout.parameters).mean(0)
        for layer, columns in self.layout.layers.items():
            count = 0.0 if personal is None else personal[columns].sum().item()
            self.layers.append([self.round, layer, columns.stop - columns.start, count])

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def state(self) -> dict[str, Any]:
        """All that a later `load_state` needs to go on as if nothing had happened."""
        return {
            "round": self.round,
            "history": self.history,
            "layers": self.layers,
            "seconds": self.seconds,
            "method": self.method.state,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; raises KeyError or RuntimeError if it is of another run."""
        method = self.method.state
        if state["method"].keys() != method.keys():
            raise KeyError("the state is of another method")
        for name, tensor in state["method"].items():
            method[name].copy_(tensor)
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
                "train_samples": self.data.train_counts.cpu(),
                "test_samples": np.diff(self.data.partition.test_offsets),
            }
        )
        for stage, scores in self.final.items():
            frame[f"accuracy_{stage}"] = scores.accuracy
        return frame
