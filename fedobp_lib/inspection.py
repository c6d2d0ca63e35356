"""FedOBP from inside: what one client would keep in the next round, and what that is worth.

Everything here only looks at a simulation after some rounds; nothing in it changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .clients import FINE_TUNE
from .decoupling import merge, personal_mask, threshold
from .evaluation import evaluate
from .parameters import ParameterLayout
from .scoring import obp_score
from .simulation import Simulation


def merged_models(simulation: Simulation, q: float) -> Tensor:
    """Every client's merged model at quantile q: (clients, size)."""
    method, size = simulation.method, simulation.layout.parameters
    local, global_params = method.state["local"], method.global_params
    scores = obp_score(local[:, :size], global_params[:size])
    return merge(personal_mask(scores, threshold(scores, q, method.rule)), local, global_params)


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
    method = simulation.method
    local = method.state["local"]
    models = {
        "global model": method.global_params.expand_as(local),
        f"merged, q = {method.quantile}": merged_models(simulation, method.quantile),
        "own last model": local,
    }
    rows = {}
    for name, model in models.items():
        scores = evaluate(simulation.trainer, model, range(len(local)))
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
    method, size = simulation.method, simulation.layout.parameters
    scores = obp_score(method.state["local"][client, :size], method.global_params[:size])
    rows = []
    for q in levels:
        personal = int(personal_mask(scores, threshold(scores, q, method.rule)).sum())
        tested = evaluate(
            simulation.trainer, merged_models(simulation, q), range(simulation.data.clients)
        )
        rows.append([q, personal, tested.summary()["pooled"][0]])
    return pd.DataFrame(rows, columns=["quantile", "personal", "accuracy"])


def workflow_frame(simulation: Simulation, client: int) -> pd.DataFrame:
    """The numbers of a client's next round, step by step (paper, Figure 1).

    Columns: step (send, score, threshold, decouple, merge, train, upload, average), quantity,
    value. Accuracies are the client's, in percent, of the merged model and of the same model
    after local training.
    """
    method, layout, config = simulation.method, simulation.layout, simulation.config
    one = torch.tensor([client], device=simulation.device)
    size = layout.parameters
    scores = obp_score(method.state["local"][client, :size], method.global_params[:size])
    start, personal = method.start(one)
    trained = method.train(start, one, FINE_TUNE)
    before, after = (
        evaluate(simulation.trainer, rows, [client]).accuracy.item() for rows in (start, trained)
    )
    kept = int(personal.sum())
    by_layer = personal_by_layer(layout, personal[0])
    cohort = config.cohort_size(simulation.data.clients)
    rows = [
        ("send", "round", simulation.round + 1),
        ("send", "parameters", size),
        ("score", "client", client),
        ("score", "median", scores.median().item()),
        ("score", "largest", scores.max().item()),
        ("threshold", "quantile", method.quantile),
        ("threshold", "tau", threshold(scores, method.quantile, method.rule).item()),
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
