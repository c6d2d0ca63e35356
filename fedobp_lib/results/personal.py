"""What a method's personal parameters are: where they lie, how they stay, whose class they are.

A finished run keeps numbers of personal parameters, not which ones, so a run is taken anew here,
without its tests. Only clients that have trained count: before, a client has no model of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..config import LARGEST, RunConfig
from ..data.clients import sample_cohort
from ..runs.store import load_data
from ..simulation import GROUP, Simulation, simulate

CELL = ["dataset", "alpha"]
LEAST = 12  # rounds; in fewer hardly a client comes twice


@dataclass(frozen=True)
class Personal:
    """What was seen of personal parameters; every frame begins with dataset and alpha.

    Attributes:
        tensors: of each weight and bias, after the last round: layer, kind (`weight` or `bias`),
            parameters, personal (mean over clients), share (of all personal ones, percent), of_all
            (share of all parameters, percent).
        stability: round, client, jaccard: of a client's personal parameters in a round and in its
            round before, how many of those that are in either are in both.
        classes: client, class, samples (percent of the client's), personal (of the parameters in
            the class's row of the classifier), after the last round.
    """

    tensors: pd.DataFrame
    stability: pd.DataFrame
    classes: pd.DataFrame


def watch_runs(configs: Sequence[RunConfig], device: torch.device | str = "cpu") -> Personal:
    """Take the first run of each data set and alpha, and see what is personal in it.

    It has `LEAST` rounds at least.

    Args:
        configs: the runs.
        device: where to compute.
    """
    first: dict[tuple[str, float], RunConfig] = {}
    for config in configs:
        first.setdefault((config.dataset, config.alpha), config)
    seen = []
    for (dataset, alpha), config in first.items():
        untested = replace(
            config, rounds=max(LEAST, config.resolved(device).rounds), eval_every=LARGEST,
            eval_after="never", eval_cohort=LARGEST,
        )  # fmt: skip
        found = watch(simulate(untested, load_data(dataset), device))
        seen.append([f.assign(dataset=dataset, alpha=alpha) for f in vars(found).values()])
    frames = [pd.concat(parts, ignore_index=True) for parts in zip(*seen, strict=True)]
    return Personal(*(f[[*CELL, *(c for c in f if c not in CELL)]] for f in frames))


def watch(simulation: Simulation) -> Personal:
    """Take all rounds of a simulation, and see what is personal; the frames lack dataset and alpha.

    Looking changes nothing, so the rounds are those of the run.
    """
    config, data = simulation.config, simulation.data
    masks: dict[int, Tensor] = {}
    trained: set[int] = set()
    stability = []
    while not simulation.done:
        number = simulation.round + 1
        cohort = sample_cohort(config.seed, number, data.clients, config.cohort_size).tolist()
        back = [client for client in cohort if client in trained]
        for client, mask in _masks(simulation, back, number).items():
            if client in masks and (either := (mask | masks[client]).sum().item()):
                both = (mask & masks[client]).sum().item()
                stability.append([number, client, both / either])
            masks[client] = mask
        trained |= set(cohort)
        simulation.step()
    last = _masks(simulation, sorted(trained), simulation.round)
    return Personal(
        _tensors(simulation, last),
        pd.DataFrame(stability, columns=["round", "client", "jaccard"]),
        _classes(simulation, last),
    )


def follow_classes(classes: pd.DataFrame) -> pd.DataFrame:
    """Whether personal parameters of the classifier belong to the classes that a client has.

    Args:
        classes: as of `Personal`.

    Returns:
        dataset, alpha, client, held (percent of all classes that the client has samples of), inside
        (percent of its personal classifier parameters that are in the rows of these), personal
        (all of its classifier); clients without any are left out.
    """
    rows = []
    for (dataset, alpha, client), own in classes.groupby([*CELL, "client"], sort=False):
        has, total = own["samples"] > 0, own["personal"].sum()
        if total:
            inside = 100 * own.loc[has, "personal"].sum() / total
            rows.append([dataset, alpha, client, 100 * has.mean(), inside, total])
    return pd.DataFrame(rows, columns=[*CELL, "client", "held", "inside", "personal"])


def summary(seen: Personal) -> pd.DataFrame:
    """In one row a data set and alpha: dataset, alpha, clients, personal (parameters of a client),
    classifier, biases (percent of them), stability (mean Jaccard index), held, inside (means of
    `follow_classes`)."""
    rows = []
    follow = follow_classes(seen.classes)
    for (dataset, alpha), own in seen.tensors.groupby(CELL, sort=False):
        cell = f"dataset == {dataset!r} and alpha == {alpha!r}"
        by_client = follow.query(cell)
        rows.append(
            [
                dataset, alpha, seen.classes.query(cell)["client"].nunique(),
                own["personal"].sum(), own.query("layer == 'classifier'")["share"].sum(),
                own.query("kind == 'bias'")["share"].sum(),
                seen.stability.query(cell)["jaccard"].mean(),
                by_client["held"].mean(), by_client["inside"].mean(),
            ]
        )  # fmt: skip
    columns = ["clients", "personal", "classifier", "biases", "stability", "held", "inside"]
    return pd.DataFrame(rows, columns=[*CELL, *columns])


def _masks(simulation: Simulation, clients: list[int], number: int) -> dict[int, Tensor]:
    """What of each client's model is personal at the beginning of a round, bool (P,) on the CPU."""
    simulation.method.round = number
    size = simulation.layout.parameters
    masks: dict[int, Tensor] = {}
    for some in torch.tensor(clients, dtype=torch.int64, device=simulation.device).split(GROUP):
        if len(some):
            _, personal = simulation.method.start(some)
            none = torch.zeros(1, dtype=torch.bool)
            whole = (none if personal is None else personal.cpu()).expand(len(some), size)
            masks |= dict(zip(some.tolist(), whole.clone(), strict=True))
    return masks


def _tensors(simulation: Simulation, masks: dict[int, Tensor]) -> pd.DataFrame:
    layout = simulation.layout
    rows = []
    for name, columns in layout.spans.items():
        if columns.start < layout.parameters:
            layer, kind = name.split(".")[0], name.rsplit(".", 1)[-1]
            mean = float(np.mean([mask[columns].sum().item() for mask in masks.values()]))
            rows.append([layer, kind, columns.stop - columns.start, mean])
    frame = pd.DataFrame(rows, columns=["layer", "kind", "parameters", "personal"])
    frame = frame.groupby(["layer", "kind"], sort=False).sum().reset_index()
    total = frame["personal"].sum()
    frame["share"] = 100 * frame["personal"] / total if total else np.nan
    frame["of_all"] = 100 * frame["parameters"] / frame["parameters"].sum()
    return frame


def _classes(simulation: Simulation, masks: dict[int, Tensor]) -> pd.DataFrame:
    data, spans = simulation.data, simulation.layout.spans
    rows = []
    for client, mask in masks.items():
        weights = mask[spans["classifier.weight"]].view(data.classes, -1).sum(1)
        personal = (weights + mask[spans["classifier.bias"]]).tolist()
        counts = data.class_counts[client].cpu().numpy()
        shares = (100 * counts / counts.sum()).tolist()
        rows += [[client, c, shares[c], personal[c]] for c in range(data.classes)]
    return pd.DataFrame(rows, columns=["client", "class", "samples", "personal"])
