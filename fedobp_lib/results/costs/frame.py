"""The costs of configurations as a tidy frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...config import ResolvedConfig, RunConfig
from ...data.datasets import is_here
from ...data.registry import DATASETS
from ...errors import UserError
from ...methods import find_method, make_settings
from ...runs.store import load_data
from .ledger import CLIENT, PARTS, SERVER
from .network import Flops
from .rounds import COHORT, OUTSIDE, ROUNDS, Played, Shape, play

# What a run is that decides its costs, beside method and settings.
RUN = ["model", "dataset", "alpha", "protocol", "clients", "cohort", "local_epochs", "batch_size",
       "momentum", "samples"]  # fmt: skip

COLUMNS = ["method", "settings", *RUN, "round", "side", "quantity", "part", "value", "sparse"]

MOST_SAMPLES = 100_000  # as each has features, and some methods look at those of all

ELSEWHERE = "outside"  # a client outside the cohort


def costs(
    configs: Sequence[RunConfig], samples: int | None = None, rounds: int = ROUNDS
) -> pd.DataFrame:
    """What rounds of configurations cost, one number a row.

    Args:
        configs: the runs; their data sets need not be here if `samples` is given. Those that
            cost the same because they are the same are counted once.
        samples: training samples of a client; None: the mean of the run's clients.
        rounds: how many are played; in the last of four, all that grows has grown.

    Returns:
        A frame with `COLUMNS`:

        - settings: those of the method that are not its defaults, as JSON;
        - cohort: clients of a round; samples: of a client;
        - round: the client's n-th, from 1, in a run of so many;
        - side: `client`, one of the cohort; `server`; `outside`, one client outside the cohort,
          where it has anything to do;
        - quantity: `flops`, by part; `bytes`, `down` or `up` as the client sees it, of the server
          all it sends and receives; `stored`, bytes that are kept after it; `memory`, the
          most bytes in use at once;
        - value, and of FLOPs sparse: those that are left for hardware that takes no product of a
          weight that is zero, no gradient of a frozen one, and none below the last that trains;
          of a client's memory sparse: what is left where weights that are zero, and gradients and
          momentum of frozen ones, take no place, and masks are bits.

        The server's FLOPs are those for two clients, in proportion to the cohort; what it takes to
        place all clients, once, in FLOCO, is that for three. Its memory is its model before and
        after, and all that is uploaded to it. A client's memory is that of its training: a model,
        its gradient and momentum, what its task needs besides, a model of before where it compares
        with one, and a batch with activations.

    Raises:
        UserError: a configuration that cannot be run, or a data set that is not here.
    """
    found: dict[tuple[Any, ...], list[list[Any]]] = {}
    for config in configs:
        resolved = config.resolved()
        shape = _shape(resolved, samples)
        settings = _changed(resolved)
        of_run = {"cohort": resolved.cohort_size, "samples": shape.samples}
        run = [of_run[name] if name in of_run else getattr(resolved, name) for name in RUN]
        key = (config.method, settings, *run)
        if key in found:
            continue
        found[key] = [
            [*key, number, *row]
            for number, one in enumerate(play(resolved, shape, rounds), 1)
            for row in _rows(resolved, one)
        ]
    rows = [row for part in found.values() for row in part]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(config: ResolvedConfig, played: Played) -> list[list[Any]]:
    """side, quantity, part, value, sparse."""
    cohort, others = config.cohort_size, config.clients - config.cohort_size
    rows: list[list[Any]] = []
    ledger = played.ledger
    for side, clients, times in (
        (CLIENT, COHORT, 1 / len(COHORT)),
        (ELSEWHERE, (OUTSIDE,), 1.0),
        (SERVER, (None,), cohort / len(COHORT)),
    ):
        where = SERVER if side == SERVER else CLIENT
        for part in PARTS:
            work = Flops()
            for client in clients:
                work += ledger.flops.get((where, client, part), Flops()) * times
            rows.append([side, "flops", part, work.dense, work.sparse])

    down, up = played.down, played.up
    down_outside, up_outside = played.outside
    for side, sent, received in (
        (CLIENT, down, up),
        (ELSEWHERE, down_outside, up_outside),
        (SERVER, cohort * down + others * down_outside, cohort * up + others * up_outside),
    ):
        rows.append([side, "bytes", "down", sent, np.nan])
        rows.append([side, "bytes", "up", received, np.nan])

    own, of_each, model = played.kept
    rows.append([CLIENT, "stored", "state", own, np.nan])
    rows.append([SERVER, "stored", "state", model + config.clients * of_each, np.nan])
    peak, sparse = (
        max(peaks.get(client, 0.0) for client in COHORT)
        for peaks in (ledger.peaks, ledger.sparse_peaks)
    )
    rows.append([CLIENT, "memory", "peak", peak, sparse])
    uploads = cohort * up + others * up_outside
    rows.append([SERVER, "memory", "peak", 2 * model + uploads, np.nan])
    idle = not any(row[3] for row in rows if row[0] == ELSEWHERE)
    return [row for row in rows if row[0] != ELSEWHERE or not idle]


def _shape(config: ResolvedConfig, samples: int | None) -> Shape:
    if samples is not None and not 1 <= samples <= MOST_SAMPLES:
        raise UserError(f"a client has 1 to {MOST_SAMPLES} samples here, got {samples}")
    spec = DATASETS.get(config.dataset)
    if not is_here(config.dataset) and spec and samples:
        return Shape(spec.shape, spec.classes, samples)
    if not is_here(config.dataset):
        raise UserError(
            f"data set {config.dataset!r} is not here, so how many samples a client has is not "
            f"known; say --samples N, or `fedobp data fetch {config.dataset}`"
        )
    data = load_data(config.dataset)
    if samples is None:
        if config.split is not None:
            counts = np.diff(config.split.check(len(data)).train_offsets)
            samples = round(float(counts.mean()))
        else:
            samples = max(1, round((1 - config.test_share) * len(data) / config.clients))
    height, width, channels = data.shape
    return Shape((height, width, channels), data.classes, samples)


def _changed(config: ResolvedConfig) -> str:
    """The settings that are not the method's defaults."""
    method = find_method(config.method)
    defaults = vars(method.Settings())
    settings = vars(make_settings(method, config.settings))
    return json.dumps({k: v for k, v in settings.items() if v != defaults[k]})
