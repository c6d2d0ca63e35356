"""What methods ask of a client, beside how accurate they are; and that who scores changes nothing.

The second version of the paper moves the scores from the clients to the server, so that weak
devices do nothing for them. Notebook 10 shows what that saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ..config import RunConfig
from ..runs.store import RunResult
from .costs import costs
from .tables import accuracies
from .titles import title_of

# What the federations of notebook 10 run.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("fedavg", {}),
    ("fedper", {}),
    ("fedobp", {}),
    ("fedobp", {"scoring": "server"}),
    ("fedobp", {"scoring": "server", "downlink": "sparse"}),
]

CELL = ["dataset", "alpha"]
FEDAVG = "fedavg"


def variant_title(result: RunResult) -> str:
    """What people call a run's method, with who scores where that is the server."""
    title, settings = title_of(result.config.method), result.config.settings
    if settings.get("scoring") != "server":
        return title
    return f"{title}, server" + (", sparse" if settings.get("downlink") == "sparse" else "")


def client_costs(results: Sequence[RunResult]) -> pd.DataFrame:
    """Accuracy and what a client of the cohort has to do for it in a round, by method.

    Args:
        results: finished runs, of FedAvg among them.

    Returns:
        One row for each data set, alpha and variant of a method, sorted by accuracy. Columns:
        dataset, alpha, method, title, mean and std (NaN for a single seed) over seeds of the
        published tables' accuracy (before local training, pooled, best of the evaluated rounds;
        percent), seeds; of a client `gflop` a round, the same `relative` to FedAvg's (NaN without
        FedAvg), `megabytes` received and sent a round, `kept` megabytes between rounds; `server`
        megabytes kept there. Costs are `costs`, in the last round that it plays.
    """
    named = {result.run_id: variant_title(result) for result in results}
    tidy = accuracies(results).query("stage == 'before' and average == 'pooled'")
    tidy = tidy.assign(title=tidy["run_id"].map(named))
    table = (
        tidy.groupby([*CELL, "method", "title"], sort=False)["best"]
        .agg(mean="mean", std="std", seeds="count")
        .reset_index()
    )
    first = {(*_cell(result), named[result.run_id]): result for result in reversed(results)}
    spent = [
        round_costs(first[row.dataset, row.alpha, row.title].config) for row in table.itertuples()
    ]
    table = pd.concat([table, pd.DataFrame(spent)], axis=1)
    unit = table[table["method"] == FEDAVG].set_index(CELL)["gflop"]
    units = unit.reindex(pd.MultiIndex.from_frame(table[CELL])).to_numpy()
    table.insert(table.columns.get_loc("gflop") + 1, "relative", table["gflop"] / units)
    # Variants of one accuracy stand together, the one that costs the client most first.
    order = [*CELL, "mean", "method", "kept", "megabytes"]
    return table.sort_values(
        order, ascending=[True, True, True, True, False, True], ignore_index=True
    )


def same_histories(results: Sequence[RunResult]) -> pd.DataFrame:
    """Whether server-scored runs have the history of the client-scored ones, byte for byte.

    Returns:
        One row for each server-scored run: dataset, alpha, seed, title, same (bool).
    """
    scored = [result for result in results if "scoring" in result.config.settings]
    by_client = {
        _alike(result): result for result in scored if result.config.settings["scoring"] == "client"
    }
    rows = []
    for result in scored:
        if result.config.settings["scoring"] == "server" and _alike(result) in by_client:
            one, other = (
                (run.directory / "history.csv").read_bytes()
                for run in (by_client[_alike(result)], result)
            )
            rows.append([*_cell(result), result.config.seed, variant_title(result), one == other])
    return pd.DataFrame(rows, columns=[*CELL, "seed", "title", "same"])


def small_federations(rounds: int) -> list[RunConfig]:
    """`VARIANTS` on digits with four clients, half of them a round, for one epoch."""
    sizes: dict[str, Any] = {
        "clients": 4, "participation": 0.5, "rounds": rounds, "local_epochs": 1,
    }  # fmt: skip
    return [RunConfig(method=name, settings=settings, **sizes) for name, settings in VARIANTS]


def beside_simulations(
    federated: Sequence[RunResult], simulated: Sequence[RunResult]
) -> pd.DataFrame:
    """Whether federations have the histories of simulations, byte for byte.

    Args:
        federated, simulated: of the same configurations, in one order.

    Returns:
        One row each: title, clients, rounds, same (bool).
    """
    rows = []
    for one, other in zip(federated, simulated, strict=True):
        if one.config != other.config:
            raise ValueError("the federation is of another configuration than the simulation")
        same = len({(run.directory / "history.csv").read_bytes() for run in (one, other)}) == 1
        rows.append([variant_title(one), one.config.clients, one.config.rounds, same])
    return pd.DataFrame(rows, columns=["title", "clients", "rounds", "same"])


def wire_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """Bytes that a client received (`down`) and sent (`up`) in the last round of federations.

    Args:
        results: of `federate`.

    Returns:
        One row for each run and way: title, way, `costs` (what `costs` counts), `method` (the
        tensors of the method's messages that were sent), `history` (what only the run's history
        needs besides), `wire` (all that went between the processes), and `around`, how much more
        `wire` is than `method` and `history`, in percent.
    """
    rows = []
    for result in results:
        counted = costs([result.config]).query("side == 'client' and quantity == 'bytes'")
        counted = counted[counted["round"] == counted["round"].max()].set_index("part")["value"]
        sent = pd.read_csv(result.directory / "traffic.csv").query("purpose == 'train'")
        mean = sent[sent["round"] == sent["round"].max()].mean(numeric_only=True)
        for way in ("down", "up"):
            own, all_, wire = (mean[f"{part}_{way}"] for part in ("method", "tensors", "wire"))
            around = 100 * (wire / all_ - 1)
            rows.append([variant_title(result), way, counted[way], own, all_ - own, wire, around])
    columns = ["title", "way", "costs", "method", "history", "wire", "around"]
    return pd.DataFrame(rows, columns=columns)


def _alike(result: RunResult) -> str:
    """The same for runs that differ in who scores and what is sent."""
    config = result.config
    settings = {k: v for k, v in config.settings.items() if k not in ("scoring", "downlink")}
    return str(replace(config, settings=settings))


def _cell(result: RunResult) -> tuple[str, float]:
    return result.config.dataset, result.config.alpha


def round_costs(config: RunConfig, samples: int | None = None) -> dict[str, float]:
    """What a configuration asks of a client in a round, the last of those that `costs` plays.

    Args:
        config: the run.
        samples: see `costs`.

    Returns:
        `gflop`, `megabytes` (received and sent), `kept` (megabytes between rounds), and `server`
        (megabytes kept there).
    """
    frame = costs([config], samples)
    frame = frame[frame["round"] == frame["round"].max()]
    total = frame.groupby(["side", "quantity"])["value"].sum()
    return {
        "gflop": total["client", "flops"] / 1e9,
        "megabytes": total["client", "bytes"] / 1e6,
        "kept": total["client", "stored"] / 1e6,
        "server": total["server", "stored"] / 1e6,
    }
