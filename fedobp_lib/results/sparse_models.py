"""FedSpa beside other methods: accuracy against density, and against rounds and bytes.

Accuracies are of all clients, pooled, before local training, in percent. Costs are those that
`costs` counts: of a dense machine, which computes and stores zeros like other numbers, and of
active parameters alone (`sparse`), which takes hardware and storage that skip zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ..config import RunConfig
from ..runs.sparse_models import DENSITIES, DENSITY, FEDAVG, FEDSPA, fedspa_at, named
from ..runs.store import RunResult
from .costs import costs
from .tables import accuracies
from .titles import title_of

CELL = ["dataset", "alpha"]
REACHED = 0.95  # of FedSpa's best accuracy


def titled(line: str) -> str:
    """What people call a line: a method, and of FedSpa the density."""
    method, _, density = line.partition(" ")
    return f"{title_of(method)} {density}".strip()


_COUNTED: dict[str, pd.DataFrame] = {}


def counted(config: RunConfig) -> pd.DataFrame:
    """`costs` of a configuration, whichever its seed, counted once."""
    key = repr(replace(config, seed=0))
    if key not in _COUNTED:
        _COUNTED[key] = costs([config])
    return _COUNTED[key]


def client_round(config: RunConfig) -> dict[str, float]:
    """What a client of the cohort needs in a round, the last of those that `costs` plays.

    Returns:
        `megabytes` received and sent; `gflop` and `gflop_sparse`; `memory` and `memory_sparse`,
        the most megabytes in use at once.
    """
    frame = counted(config).query("side == 'client'")
    frame = frame[frame["round"] == frame["round"].max()]
    total = frame.groupby("quantity")[["value", "sparse"]].sum()
    return {
        "megabytes": total.loc["bytes", "value"] / 1e6,
        "gflop": total.loc["flops", "value"] / 1e9,
        "gflop_sparse": total.loc["flops", "sparse"] / 1e9,
        "memory": total.loc["memory", "value"] / 1e6,
        "memory_sparse": total.loc["memory", "sparse"] / 1e6,
    }


def density_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """FedSpa's accuracy and a client's costs of a round by density, beside FedAvg's.

    Args:
        results: finished runs of `sparse_runs`.

    Returns:
        One row for each data set, alpha and density: dataset, alpha, density, mean and std (NaN
        for a single seed) over seeds of the best of the evaluated rounds, seeds, fedavg (its mean;
        NaN where it was not run), what `client_round` gives, and the same as multiples of FedAvg's
        with `relative_` before the names.
    """
    lines = {result.run_id: named(result.config) for result in results}
    tidy = accuracies(results).query("stage == 'before' and average == 'pooled'")
    tidy = tidy.assign(line=tidy["run_id"].map(lines))
    best = tidy.groupby([*CELL, "line"])["best"].agg(mean="mean", std="std", seeds="count")
    configs = {(r.config.dataset, r.config.alpha, lines[r.run_id]): r.config for r in results}
    rows = []
    for dataset, alpha in dict.fromkeys(key[:2] for key in configs):
        control = best["mean"].get((dataset, alpha, FEDAVG), np.nan)
        unit = None
        for density in DENSITIES:
            key = (dataset, alpha, fedspa_at(density))
            if key not in configs:
                continue
            unit = unit or client_round(replace(configs[key], method=FEDAVG, settings={}))
            spent = client_round(configs[key])
            own = {"dataset": dataset, "alpha": alpha, "density": density}
            relative = {f"relative_{name}": spent[name] / unit[name] for name in spent}
            rows.append(own | best.loc[key].to_dict() | {"fedavg": control} | spent | relative)
    return pd.DataFrame(rows).astype({"seeds": int})


def byte_table(results: Sequence[RunResult]) -> pd.DataFrame:
    """What a client of the cohort receives and sends with FedSpa, and what of it is for its mask.

    Args:
        results: finished runs of `sparse_runs`.

    Returns:
        One row for each data set, alpha and density: dataset, alpha, density, dense (bytes of the
        whole model), share (`density * dense`), down, up, mask (bytes of the places where the next
        mask is another: what `up` has more than `down`). Of the last round that `costs` plays.
    """
    rows = {}
    for config in (result.config for result in results):
        if config.method != FEDSPA:
            continue
        density = config.settings["density"]
        dense, _ = _ways(replace(config, method=FEDAVG, settings={}))
        down, up = _ways(config)
        key = (config.dataset, config.alpha, density)
        rows[key] = [*key, dense, density * dense, down, up, up - down]
    columns = [*CELL, "density", "dense", "share", "down", "up", "mask"]
    return pd.DataFrame(rows.values(), columns=columns)


def _ways(config: RunConfig) -> list[float]:
    """Bytes down and up of a client, in the last round played."""
    rows = counted(config).query("side == 'client' and quantity == 'bytes'").set_index("part")
    rows = rows[rows["round"] == rows["round"].max()]
    return [float(rows.loc[way, "value"]) for way in ("down", "up")]


def trails(results: Sequence[RunResult]) -> pd.DataFrame:
    """Accuracy of each run in its evaluated rounds, and what a client has received and sent.

    Args:
        results: finished runs of `sparse_runs`.

    Returns:
        One row for each run and evaluated round: dataset, alpha, line (see `named`), title, seed,
        round, megabytes (of a client on average, since the first round), accuracy, after (that of
        the round's clients after their local training).
    """
    rows = []
    for result in results:
        config, line = result.config, named(result.config)
        pooled = result.history.query("average == 'pooled'").set_index("round")
        kinds = pooled["stage"] + " " + pooled["scope"]
        accuracy = pooled.loc[kinds == "before all", "accuracy"]
        frame = pd.DataFrame(
            {"megabytes": client_megabytes(config), "accuracy": accuracy,
             "after": pooled.loc[kinds == "after cohort", "accuracy"]}
        ).loc[accuracy.index].rename_axis("round").reset_index()  # fmt: skip
        own = {"dataset": config.dataset, "alpha": config.alpha, "line": line,
               "title": titled(line), "seed": config.seed}  # fmt: skip
        for place, (name, value) in enumerate(own.items()):
            frame.insert(place, name, value)
        rows.append(frame)
    return pd.concat(rows, ignore_index=True)


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracies over seeds.

    Args:
        frame: as `trails` gives it.

    Returns:
        dataset, alpha, line, title, round, megabytes, mean, low and high (a standard deviation
        over seeds around it, from 0 to 100), seeds.
    """
    keys = [*CELL, "line", "title", "round", "megabytes"]
    table = frame.groupby(keys, sort=False)["accuracy"].agg(["mean", "std", "count"]).reset_index()
    spread = table.pop("std").fillna(0)
    table["low"] = (table["mean"] - spread).clip(0, 100)
    table["high"] = (table["mean"] + spread).clip(0, 100)
    return table.rename(columns={"count": "seeds"})


def client_megabytes(config: RunConfig) -> pd.Series:
    """Megabytes that a client on average has received and sent until the end of each round.

    Not every client takes part in a round: these are all that the server sends and receives, by
    the number of clients. After those that `costs` plays, each round takes what the last one takes.
    """
    resolved = config.resolved("cpu")
    rows = counted(config).query("side == 'server' and quantity == 'bytes'")
    each = rows.groupby("round")["value"].sum() / resolved.clients / 1e6
    rounds = pd.RangeIndex(1, resolved.rounds + 1, name="round")
    return each.reindex(rounds).ffill().cumsum()


def standings(frame: pd.DataFrame) -> pd.DataFrame:
    """Each line's best accuracy, how soon it is there, and what it is at equal bytes.

    Args:
        frame: as `trails` gives it.

    Returns:
        One row for each data set, alpha and line, best first: dataset, alpha, line, title, best
        (mean over seeds of the best of the evaluated rounds), after (mean over the evaluated
        rounds of the last quarter, and seeds), rounds and megabytes (until the mean over seeds
        first is at 95 % of the highest one of FedSpa at its default density; NaN: never),
        same_bytes (as best, of the rounds until which a client has received and sent no more than
        with that FedSpa in all rounds; NaN: its first one takes more), total (megabytes of all
        rounds). Empty where FedSpa was not run at that density.
    """
    rows = []
    for (dataset, alpha), panel in frame.groupby(CELL, sort=False):
        ours = panel[panel["line"] == fedspa_at(DENSITY)]
        if ours.empty:
            continue
        mark = REACHED * curves(ours)["mean"].max()
        budget = ours["megabytes"].max() * (1 + 1e-9)
        for (line, title), own in panel.groupby(["line", "title"], sort=False):
            mean = curves(own)
            there = mean[mean["mean"] >= mark]
            first = there.iloc[0] if len(there) else {"round": np.nan, "megabytes": np.nan}
            late = own.loc[4 * own["round"] > 3 * own["round"].max(), "after"]
            rows.append(
                [dataset, alpha, line, title, _best(own), late.mean(), first["round"],
                 first["megabytes"], _best(own[own["megabytes"] <= budget]),
                 own["megabytes"].max()]
            )  # fmt: skip
    columns = ["line", "title", "best", "after", "rounds", "megabytes", "same_bytes", "total"]
    table = pd.DataFrame(rows, columns=[*CELL, *columns])
    return table.sort_values([*CELL, "best"], ascending=[True, True, False], ignore_index=True)


def _best(frame: pd.DataFrame) -> float:
    """Mean over seeds of each run's best accuracy."""
    return float(frame.groupby("seed")["accuracy"].max().mean())
