"""Bytes that a client receives and sends in a round: by `fedobp costs`, and in a federation.

    python benchmarks/wire.py > benchmarks/wire.csv

`fedobp federate` on digits: one server and four clients over loopback, half of them a round, 10
rounds of an epoch. Of each message of training, on average: `costs` counts the method's message
without a federation; `tensors` are the numbers that were sent, `for_history` those of them that
only the run's history needs; `wire` are all bytes between server and client. Tests of all clients,
which a method does without, are not in it. The histories are compared with those of `fedobp run`.
Prints CSV on standard output.
"""

from __future__ import annotations

import json
import sys
import tempfile

import pandas as pd
import torch
from rows import Rows, made_by

from fedobp_lib import RunConfig, run
from fedobp_lib.federate.launch import federate
from fedobp_lib.results.cloud_edge import VARIANTS
from fedobp_lib.results.costs import costs

# With more personal values than the paper's quantile leaves, so that the sparse way is seen.
SPARSE = {"scoring": "server", "downlink": "sparse", "quantile": 0.99}
METHODS = [*VARIANTS, ("fedobp", SPARSE)]


def counted(config: RunConfig, trained: pd.DataFrame) -> dict[str, float]:
    """By `fedobp costs`, the mean over these messages; `down` and `up`.

    Who first comes after the run's first round finds a server's model that has moved, as others do
    in their second.
    """
    frame = costs([config], rounds=config.rounds)
    frame = frame[(frame["side"] == "client") & (frame["quantity"] == "bytes")]
    table = frame.pivot(index="round", columns="part", values="value")
    first = trained.groupby("client")["round"].transform("min")
    nth = trained.groupby("client").cumcount() + 1 + (first > 1)
    means = table.loc[nth].mean()
    return {"down": means["down"], "up": means["up"]}


def main() -> None:
    made, rows = made_by(torch.device("cpu")), Rows()
    for method, settings in METHODS:
        print(method, settings, file=sys.stderr)
        config = RunConfig(
            method=method, clients=4, participation=0.5, rounds=10, local_epochs=1,
            settings=settings,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as home:
            there = federate(config, directory=home, progress=False)
            here = run(config, device="cpu", directory=home, progress=False)
            if there.history.to_csv() != here.history.to_csv():
                raise SystemExit(f"{method} {settings} has another history than simulated")
            sent = pd.read_csv(there.directory / "traffic.csv")
            flower = there.summary["provenance"]["flower"]
        trained = sent[sent["purpose"] == "train"]
        bytes_: dict[str, float] = {}
        for way, by_costs in counted(config, trained).items():
            mean = {part: trained[f"{part}_{way}"].mean() for part in ("method", "tensors", "wire")}
            bytes_ |= {
                f"{way}_costs": round(by_costs, 1),
                f"{way}_tensors": round(mean["tensors"], 1),
                f"{way}_for_history": round(mean["tensors"] - mean["method"], 1),
                f"{way}_wire": round(mean["wire"], 1),
            }
        del bytes_["down_for_history"]  # nothing is
        rows.add(
            {"method": method, "settings": json.dumps(settings), **bytes_, "flower": flower, **made}
        )


if __name__ == "__main__":
    main()
