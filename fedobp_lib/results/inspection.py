"""FedOBP from inside: what one client would keep in the next round, and what that is worth.

Everything here only looks at a simulation after some rounds; nothing in it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..data.clients import FINE_TUNE
from ..decoupling import threshold
from ..errors import UserError
from ..methods.fedobp import FedOBP
from ..models.parameters import ParameterLayout
from ..scoring import normalize
from ..selection import Selection
from ..simulation import GROUP, Simulation
from ..training.evaluation import Scores, evaluate


def _fedobp(simulation: Simulation) -> FedOBP:
    method = simulation.method
    if not isinstance(method, FedOBP):
        raise UserError(f"only FedOBP has importance scores, not {method.title}")
    if method.settings.select != "quantile":
        raise UserError(f"only select=quantile has a quantile, not {method.settings.select}")
    return method


def _scores(method: FedOBP, clients: Tensor) -> Tensor:
    """What the clients, int64 (K,), choose by in their next round: (K, width)."""
    averages = method.averaged(method.state["local"][clients], clients)
    return normalize(averages, method.federation.layout, method.settings.normalization)


def _selection(method: FedOBP, scores: Tensor, q: float) -> Selection:
    part = scores[:, method.scored]
    tau = threshold(part, q, method.rule)[:, None]
    return Selection(tau, part > tau)


def merged_models(simulation: Simulation, q: float, clients: Tensor) -> Tensor:
    """The merged models of clients, int64 (K,), at quantile q: (K, size).

    Raises:
        UserError: the method has no importance scores or no quantile.
    """
    method = _fedobp(simulation)
    scores = _scores(method, clients)
    chosen = _selection(method, scores, q)
    return method.combined(scores, chosen, method.state["local"][clients])[0]


def evaluate_everyone(simulation: Simulation, models: Callable[[Tensor], Tensor]) -> Scores:
    """Every client's model on its own test data, a cohort at a time.

    Args:
        simulation: supplies data and back-end.
        models: takes the clients, int64 (K,), gives their models (K, size).
    """
    parts = []
    for clients in torch.arange(simulation.data.clients, device=simulation.device).split(GROUP):
        parts.append(evaluate(simulation.trainer, models(clients), clients.tolist()))
    return Scores.join(parts)


def personal_by_layer(layout: ParameterLayout, personal: Tensor) -> pd.DataFrame:
    """How the personal parameters of a client, bool (P,), are spread over the layers.

    Columns: layer, parameters, personal, share of all personal (percent; NaN where none is).
    """
    rows = [
        (layer, columns.stop - columns.start, int(personal[columns].sum()))
        for layer, columns in layout.layers.items()
    ]
    frame = pd.DataFrame(rows, columns=["layer", "parameters", "personal"])
    total = frame["personal"].sum()
    share = 100 * frame["personal"] / total if total else np.nan
    return frame.assign(**{"share of all personal, %": share}).round(1)


def compare_models(simulation: Simulation, client: int) -> pd.DataFrame:
    """Accuracy before local training of the global, the merged and the client's own model.

    A row a model; columns: this client, and all clients pooled, in percent.
    """
    method = _fedobp(simulation)
    local = method.state["local"]
    models: dict[str, Callable[[Tensor], Tensor]] = {
        "global model": lambda clients: method.global_params.expand(len(clients), -1),
        f"merged, q = {method.quantile}": partial(merged_models, simulation, method.quantile),
        "own last model": lambda clients: local[clients],
    }
    rows = {}
    for name, model in models.items():
        scores = evaluate_everyone(simulation, model)
        rows[name] = {
            f"client {client}": scores.accuracy[client].item(),
            "all, pooled": scores.summary()["pooled"][0],
        }
    frame = pd.DataFrame(rows).T.rename_axis("accuracy before local training, %")
    return frame.round(2).reset_index()


def quantile_curve(simulation: Simulation, client: int, levels: Sequence[float]) -> pd.DataFrame:
    """What other quantiles would make of the same trained models.

    Columns: quantile, personal (parameters of this client), accuracy (of all clients, pooled,
    before local training, percent).
    """
    method = _fedobp(simulation)
    scores = _scores(method, torch.tensor([client], device=simulation.device))
    rows = []
    for q in levels:
        personal = int(_selection(method, scores, q).mask.sum())
        tested = evaluate_everyone(simulation, partial(merged_models, simulation, q))
        rows.append([q, personal, tested.summary()["pooled"][0]])
    return pd.DataFrame(rows, columns=["quantile", "personal", "accuracy"])


def workflow_frame(simulation: Simulation, client: int) -> pd.DataFrame:
    """The numbers of a client's next round, step by step (paper, Figure 1).

    Columns: step (send, score, threshold, decouple, merge, train, upload, average), quantity,
    value. Accuracies are the client's, in percent, of the merged model and of the same model
    after local training.
    """
    method, layout, config = _fedobp(simulation), simulation.layout, simulation.config
    one = torch.tensor([client], device=simulation.device)
    size = layout.parameters
    scores = _scores(method, one)
    part, tau = scores[:, method.scored], _selection(method, scores, method.quantile).tau
    start, personal = method.start(one)
    trained = method.train(start, one, FINE_TUNE)
    before, after = (
        evaluate(simulation.trainer, rows, [client]).accuracy.item() for rows in (start, trained)
    )
    kept = int(personal.sum())
    by_layer = personal_by_layer(layout, personal[0])
    cohort = config.cohort_size
    rows = [
        ("send", "round", simulation.round + 1),
        ("send", "parameters", size),
        ("score", "client", client),
        ("score", "median", part.median().item()),
        ("score", "largest", part.max().item()),
        ("threshold", "quantile", method.quantile),
        ("threshold", "tau", tau.item()),
        ("decouple", "personal", kept),
        ("decouple", "global", size - kept),
        *(("decouple", f"personal in {r.layer}", r.personal) for r in by_layer.itertuples()),
        ("merge", "accuracy before", before),
        ("train", "samples", int(simulation.data.train_counts[client])),
        ("train", "epochs", config.local_epochs),
        ("train", "accuracy after", after),
        ("upload", "numbers", trained.shape[1]),
        ("average", "clients", cohort),
    ]
    return pd.DataFrame(rows, columns=["step", "quantity", "value"]).astype({"value": float})


def score_histogram(scores: np.ndarray, tau: float, layers: dict[str, slice]) -> pd.DataFrame:
    """How one client's importance scores are distributed in each layer.

    Args:
        scores: (P,) importance of every parameter.
        tau: the threshold; parameters above it are personal.
        layers: columns of each layer.

    Returns:
        layer, low, high (of a bin; six a decade, down to a ten-billionth of the largest score),
        parameters (in the bin), layer_parameters, layer_personal, layer_below (parameters whose
        scores are smaller than any bin, or zero).
    """
    top = np.log10(scores.max()) if scores.max() > 0 else 0.0
    edges = np.logspace(top - 10, top, 61)
    edges[-1] = max(edges[-1], scores.max())  # rounding must not lose the largest
    rows = []
    for name, span in layers.items():
        values = scores[span]
        counts, _ = np.histogram(values, edges)
        personal, below = int((values > tau).sum()), len(values) - int(counts.sum())
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            rows.append([name, low, high, count, len(values), personal, below])
    columns = ["layer", "low", "high", "parameters", "layer_parameters", "layer_personal"]
    return pd.DataFrame(rows, columns=[*columns, "layer_below"])
