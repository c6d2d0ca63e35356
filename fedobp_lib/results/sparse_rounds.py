"""FedSpa from inside, round by round: what each client holds, and the gradient of the objective.

The objective is the mean over all clients of the loss of each at the server's model under its
mask, mean_k L_k(m_k * w). Everything here steps a simulation and changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..config import RunConfig
from ..errors import UserError
from ..methods.fedspa import FedSpa
from ..runs.store import load_data
from ..simulation import GROUP, Simulation, simulate
from ..training.backends import choose_device

# What is said of the paper's rate, once where the masks stay and once where they follow.
MASKS: dict[str, dict[str, Any]] = {
    "fixed masks": {"prune_rate": 0.0},
    "masks that follow the gradient": {},
}
HELD = ["received", "start", "trained", "kept"]


def _fedspa(simulation: Simulation) -> FedSpa:
    if not isinstance(simulation.method, FedSpa):
        raise UserError(f"only FedSpa has sparse masks, not {simulation.method.title}")
    return simulation.method


def active_rows(simulation: Simulation) -> pd.DataFrame:
    """Take a simulation's rounds, and count what each client of a cohort holds in each.

    Args:
        simulation: of FedSpa; it is run to its end.

    Returns:
        A row for each round and client: density, round, client, budget (density times the
        parameters); received (parameters in the server's message), start and trained (parameters
        of its model that are not zero, before and after training), kept (of its next mask). What
        has no mask (running statistics) is not counted.

    Raises:
        UserError: of another method.
    """
    method, size = _fedspa(simulation), simulation.layout.parameters
    beside = simulation.layout.size - size
    budget = int(method.settings.density * size)
    rows: list[list[Any]] = []
    finish = method.finish

    def seen(clients: Tensor, start: Tensor, trained: Tensor) -> None:
        sent = [len(m["model"]) - beside for m in method.messages_down(clients, start)]
        held = [(part[:, :size] != 0).sum(1).tolist() for part in (start, trained)]
        finish(clients, start, trained)
        kept = method.state["masks"][clients].sum(1).tolist()
        for client, *counts in zip(clients.tolist(), sent, *held, kept, strict=True):
            own = [method.settings.density, simulation.round, client, budget]
            rows.append([*own, *counts])

    setattr(method, "finish", seen)  # noqa: B010, as a method is not to be assigned to
    try:
        while not simulation.done:
            simulation.step()
    finally:
        del method.finish
    return pd.DataFrame(rows, columns=["density", "round", "client", "budget", *HELD])


def most_active(rows: pd.DataFrame) -> pd.DataFrame:
    """The most that any client of a round holds, and the fewest that its mask keeps.

    Args:
        rows: as `active_rows` gives them, also of several simulations.

    Returns:
        One row for each density and round: density, round, clients, budget, the largest of
        received, start, trained and kept, fewest (the smallest of kept).
    """
    rounds = rows.groupby(["density", "round", "budget"], sort=False)
    frame = rounds[HELD].max().assign(fewest=rounds["kept"].min(), clients=rounds.size())
    frame = frame.reset_index()
    return frame[["density", "round", "clients", "budget", *HELD, "fewest"]]


def objective_gradient(simulation: Simulation) -> Tensor:
    """The gradient of FedSpa's objective at the server's model, (P,), over all clients' data.

    Each client counts alike, and has no gradient where its mask has no parameter.
    """
    method = _fedspa(simulation)
    total = torch.zeros(simulation.layout.parameters, device=simulation.device)
    everyone = torch.arange(simulation.data.clients, device=simulation.device)
    for clients in everyone.split(GROUP):
        start, masks = method.start(clients)
        gradients = simulation.trainer.gradient(start, clients.tolist())
        total += (gradients * masks).sum(0)
    return total / len(everyone)


def gradient_norms(simulation: Simulation, every: int) -> pd.DataFrame:
    """Take a simulation's rounds; the objective's gradient at the beginning of some of them.

    Args:
        simulation: of FedSpa; it is run to its end.
        every: the gradient is asked for in the first round and every so many after it.

    Returns:
        round, norm, squared, mean (of squared, over the rounds so far), line (C over the square
        root of the round, with the C that gives `mean` where the second half of the rounds begins).
    """
    rows = []
    while not simulation.done:
        if simulation.round % every == 0:
            norm = objective_gradient(simulation).double().norm().item()
            rows.append([simulation.round + 1, norm, norm**2])
        simulation.step()
    frame = pd.DataFrame(rows, columns=["round", "norm", "squared"])
    frame["mean"] = frame["squared"].expanding().mean()
    first = second_half(frame).iloc[0]
    return frame.assign(line=first["mean"] * np.sqrt(first["round"] / frame["round"]))


def second_half(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows whose round is in the second half of the rounds."""
    return frame[2 * frame["round"] > frame["round"].max()]


def slope(frame: pd.DataFrame) -> float:
    """How fast `mean` falls over the second half of the rounds: log against log, least squares."""
    half = second_half(frame)
    return float(np.polyfit(np.log(half["round"]), np.log(half["mean"]), 1)[0])


def gradient_frame(config: RunConfig, every: int, device: str = "auto") -> pd.DataFrame:
    """`gradient_norms` of a configuration with each of `MASKS`: variant, and their columns."""
    frames = []
    for variant, settings in MASKS.items():
        frame = gradient_norms(_simulation(config, settings, device), every)
        frame.insert(0, "variant", variant)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def active_frame(
    config: RunConfig, densities: Sequence[float], device: str = "auto"
) -> pd.DataFrame:
    """`most_active` of a configuration at each density."""
    rows = [active_rows(_simulation(config, {"density": d}, device)) for d in densities]
    return most_active(pd.concat(rows, ignore_index=True))


def _simulation(config: RunConfig, settings: dict[str, Any], device: str) -> Simulation:
    config = replace(config, method=FedSpa.name, settings={**config.settings, **settings})
    return simulate(config, load_data(config.dataset), choose_device(device))
