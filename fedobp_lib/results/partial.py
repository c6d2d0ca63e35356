"""What partial personalization bears (Mishchenko et al. 2023): the frames of notebook 11."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..config import RunConfig
from ..data.datasets import load
from ..data.images import ImageData
from ..data.partition import Partition
from ..methods import Attack
from ..runs.partial_personalization import STILL, equal_work
from ..runs.store import RunResult
from ..simulation import Simulation, simulate
from .titles import title_of

CELL = ["dataset", "alpha"]
EQUAL_WORK, EQUAL_ROUNDS = "equal local work", "equal rounds"

# What is local, and the method and settings that have it so. FFGG fine-tunes for as many epochs
# as it trains.
EPOCHS = {"tolerance": 0.0, "tune_epochs": 5}
SPLITS: dict[str, tuple[str, dict[str, Any]]] = {
    "classifier": ("ffgg", EPOCHS),
    "its bias alone": ("ffgg", EPOCHS | {"local": "classifier.bias"}),
    "nothing (FedAvg)": ("fedavg", {}),
    # The server's steps are too small to change a number.
    "classifier, rest as at first": (
        "ffgg",
        EPOCHS | STILL,
    ),
}
PERMUTED: dict[str, Any] = {
    "participation": 1.0, "local_epochs": 5, "lr": 0.05, "batch_size": 10, "eval_after": "never",
}  # fmt: skip


def permuted_digits(
    clients: int = 4, train: int = 40, test: int = 60, seed: int = 0
) -> tuple[ImageData, Partition]:
    """Clients that have the same images and call them by other names.

    Each has its own permutation of the classes. So no model can be right for all of them, while a
    classifier for each on one body can.

    Args:
        clients: how many.
        train, test: images of each, the same for all.
        seed: of which images, and of the permutations.
    """
    digits, rng = load("digits"), np.random.default_rng(seed)
    shown = rng.permutation(len(digits))[: train + test]
    names = [rng.permutation(digits.classes) for _ in range(clients)]
    labels = np.concatenate([name[digits.labels[shown]] for name in names])
    images = np.tile(digits.images[shown], (clients, 1, 1, 1))
    samples = np.arange(len(labels)).reshape(clients, train + test)
    data = ImageData(
        "permuted digits", images, labels, np.ones(len(labels), bool), digits.classes, "permuted"
    )
    each = np.arange(clients + 1)
    parts = samples[:, :train].ravel(), each * train, samples[:, train:].ravel(), each * test
    return data, Partition(*parts)


def split_losses(
    rounds: int, problem: tuple[ImageData, Partition], splits: Sequence[str] = tuple(SPLITS)
) -> pd.DataFrame:
    """Training loss of every client after every round, for several splits of the parameters.

    A client's model is the server's present one with its own local part, as it would begin the
    next round. "rest as at first" is what the classifiers reach on a body that nobody has trained.

    Args:
        rounds: how many.
        problem: such as `permuted_digits`.
        splits: names in `SPLITS`.

    Returns:
        split, round, client, loss (nats, on its training images), accuracy (percent, on its test
        images).
    """
    parts = []
    for split in splits:
        method, settings = SPLITS[split]
        config = RunConfig(
            method=method, settings=settings, rounds=rounds, eval_every=rounds, **PERMUTED
        )
        simulation = simulate(config, problem[0], partition=problem[1])
        while not simulation.done:
            simulation.step()
            parts.append(_losses(simulation).assign(split=split))
    frame = pd.concat(parts, ignore_index=True)
    return frame[["split", "round", "client", "loss", "accuracy"]]


def _losses(simulation: Simulation) -> pd.DataFrame:
    everyone = torch.arange(simulation.data.clients)
    start, _ = simulation.method.start(everyone)
    models = simulation.method.models(start, everyone)
    correct, _ = simulation.trainer.test(models, everyone.tolist())
    tested = np.diff(simulation.data.partition.test_offsets)
    return pd.DataFrame(
        {
            "round": simulation.round,
            "client": everyone.numpy(),
            "loss": simulation.trainer.losses(models, everyone.tolist()).numpy(),
            "accuracy": 100 * correct.numpy() / tested,
        }
    )


def local_steps(results: Sequence[RunResult]) -> pd.DataFrame:
    """Accuracy against local epochs, at equal local work and, where that was run, at equal rounds.

    Args:
        results: of `partial_questions(...)["local_steps"]`.

    Returns:
        As `bearing`, with `panel` either `equal local work` or `equal rounds`, and `value` the
        local epochs of a round.
    """
    most = {}  # the base has so many rounds: of 5 epochs, there is one run only
    for result in results:
        if result.config.local_epochs == 5:
            most[_cell(result)] = result.config.rounds
    rows = []
    for result in results:
        base, config = most[_cell(result)], result.config
        told = {"value": config.local_epochs, "run": result}
        if config.rounds == equal_work(base, config.local_epochs):
            rows.append({"panel": EQUAL_WORK} | told)
        if config.rounds == base:
            rows.append({"panel": EQUAL_ROUNDS} | told)
    values = {row["value"] for row in rows if row["panel"] == EQUAL_ROUNDS}
    return bearing([r for r in rows if r["panel"] != EQUAL_ROUNDS or len(values) > 1])


def late(results: Sequence[RunResult]) -> pd.DataFrame:
    """Accuracy against delays; as `bearing`, with `value` the most rounds of delay."""
    return bearing([{"panel": "late uploads", "value": r.config.delays, "run": r} for r in results])


def bearing(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Accuracy of runs by a value that makes their task harder.

    Args:
        rows: `panel`, `value` and `run` each.

    Returns:
        dataset, alpha, panel, method (`still`: see `STILL`), title, value, rounds, mean and std
        (NaN of one seed) over seeds of the accuracy (before local training, all clients, pooled,
        last round; percent; a run that diverged has none), seeds, diverged (how many).
    """
    columns = [*CELL, "panel", "method", "title", "value", "rounds"]
    tidy = pd.DataFrame([_told(row["run"]) | dict(row) for row in rows])
    if tidy.empty:
        return pd.DataFrame(columns=[*columns, "mean", "std", "seeds", "diverged"])
    return _over_seeds(tidy, columns)


def byzantine(results: Sequence[RunResult]) -> pd.DataFrame:
    """Accuracy of the honest clients under each attack, by aggregator.

    Args:
        results: of `partial_questions(...)["byzantine"]`.

    All accuracies of a seed are of the same clients: those that are honest in each of its runs.

    Returns:
        dataset, alpha, method, title, attack, share, aggregator, and as `bearing` mean, std, seeds,
        diverged. The attack `none` has the share 0; in its runs all clients are honest.
    """
    columns = [*CELL, "method", "title", "attack", "share", "aggregator"]
    rows, honest = [], _always_honest(results)
    for result in results:
        attack = Attack.parse(result.config.byzantine)
        told = {"attack": attack.kind, "share": attack.share} if attack else {}
        kind = {"attack": "none", "share": 0.0, "aggregator": result.config.aggregator}
        own = {"accuracy": _pooled(result, honest.get(_federation(result)))}
        rows.append(_told(result) | kind | told | own)
    if not rows:
        return pd.DataFrame(columns=[*columns, "mean", "std", "seeds", "diverged"])
    return _over_seeds(pd.DataFrame(rows), columns)


def _always_honest(results: Sequence[RunResult]) -> dict[tuple, np.ndarray]:
    """The clients, by `_federation`, that no run has left out of its tests."""
    found: dict[tuple, np.ndarray] = {}
    for result in results:
        if not result.diverged:
            tested = result.clients["accuracy_before"].notna().to_numpy()
            found[_federation(result)] = tested & found.get(_federation(result), True)
    return found


def _federation(result: RunResult) -> tuple[str, float, int]:
    return result.config.dataset, result.config.alpha, result.config.seed


def _pooled(result: RunResult, clients: np.ndarray | None) -> float:
    """Accuracy of some clients after the last round, before local training, pooled; percent."""
    if result.diverged:
        return float("nan")
    frame = result.clients[clients]
    return float(np.average(frame["accuracy_before"], weights=frame["test_samples"]))


def _told(result: RunResult) -> dict[str, Any]:
    config, method, title = result.config, result.config.method, title_of(result.config.method)
    if config.settings.get("server_lr") == STILL["server_lr"]:
        method, title = "still", "body as at first"
    return {
        "dataset": config.dataset, "alpha": config.alpha, "method": method, "title": title,
        "rounds": config.rounds, "accuracy": result.accuracy(),
    }  # fmt: skip


def _over_seeds(tidy: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    return (
        tidy.groupby(columns, sort=False)["accuracy"]
        .agg(mean="mean", std="std", seeds="count", diverged=lambda seeds: seeds.isna().sum())
        .reset_index()
    )


def _cell(result: RunResult) -> tuple[str, float, str, int]:
    config = result.config
    return config.dataset, config.alpha, config.method, config.seed
