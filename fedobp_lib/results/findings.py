"""`fedobp findings`: what is settled about the paper and its neighbours, in sentences.

Every number is computed here, none is typed: from the package's data, which are the printed tables
and what the authors logged; by counting what a round costs; or, of neighbouring papers, from the
verdicts that notebooks keep (`neighbour_findings`). `FINDINGS.md` is this text, and a test holds it
to that.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial

import pandas as pd

from ..config import RunConfig
from ..methods import METHODS
from ..paper.logged import logged_accuracy, logged_normalizations, logged_runs, logged_sheets
from ..paper.published import (
    published_accuracy,
    published_normalizations,
    published_quantiles,
)
from .claims.training import Stages, leads, paired, stages, winners
from .cloud_edge import round_costs
from .found import Finding
from .layers import layer_frame, layer_table
from .logged import logged_results
from .neighbour_findings import NEIGHBOUR_FINDINGS
from .own_findings import OWN_FINDINGS
from .printed_cells import MIX, NONE, OPEN, by_chance, explained_cells

CELL = ["dataset", "alpha"]
ORGANS = ("medmnistA", "medmnistC")
SHOWN = 'notebook {} with `SOURCE = "logged"`, and `figures/authors/`'
LOGGED_02, LOGGED_05, LOGGED_06 = (SHOWN.format(number) for number in ("02", "05", "06"))
LAST = 400  # the last logged round
OWN = (
    "Claims by their short names, each with what was measured and the verdict of a rule that was "
    "written down before it was seen, but for what notebooks 12 and 13 name; they have the claims' "
    "words and the rules. The embedded digits "
    "(20 clients, few rounds) are a small problem: they can show that something is possible, "
    "hardly that it is so elsewhere. The last finding has no claims: it sets runs on real images "
    "beside the logs."
)
CIFAR10_SAMPLES = 450  # of 60,000 images, three quarters to train, on 100 clients


def findings_text() -> str:
    """The whole page, Markdown."""
    lines = [
        "# Findings",
        "",
        _wrapped(
            "What the paper's authors logged themselves (two public repositories, January and May "
            "2025, one seed) says about the printed tables and claims. Each number is computed "
            "from the kit's data by `fedobp findings`; nothing here was trained. *Before* and "
            "*after* are before and after a client's local training, pooled over the test samples "
            "of all clients. The last of these findings is about the paper's second version."
        ),
    ]
    for number, finding in enumerate(findings(), 1):
        if number == len(FINDINGS) + 1:
            lines += ["", "# What runs of ours say", "", _wrapped(OWN)]
        where = f"*Shown by {finding.shown}.*"
        lines += ["", f"## {number}. {finding.heading}", "", _wrapped(f"{finding.text} {where}")]
    return "\n".join(lines) + "\n"


def findings() -> list[Finding]:
    """All findings, in order of weight; those from runs of ours last."""
    return [make() for make in (*FINDINGS, *NEIGHBOUR_FINDINGS, *OWN_FINDINGS)]


def _wrapped(text: str) -> str:
    fill = partial(textwrap.fill, width=99, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join(map(fill, text.split("\n\n")))


def _fine_tuned() -> Finding:
    found = _stages()
    before, after = found["before"], found["after"]
    whole = paired(before["fedobp"], after["fedavg"])
    kept = [cell for cell in before.index if cell[0] not in ORGANS]
    without = paired(before.loc[kept, "fedobp"], after.loc[kept, "fedavg"])
    lead = (before["fedobp"] - before["fedavg"]).loc[kept].mean()
    level = (after["fedobp"] - after["fedavg"]).loc[kept].mean()
    return Finding(
        "FedAvg with one round of local training does as well as FedOBP",
        f"FedOBP before (best of the logged evaluations) less FedAvg after (round {LAST}), column "
        f"by column of Tables 1 and 6: {whole}. Without the organ sets, which compare nothing "
        f"(below): {without}. FedOBP's lead of {lead:.1f} points over FedAvg there is one before "
        f"local training; after it the two differ by {level:+.2f}. Matsuda et al. (arXiv "
        "2206.13190) found the same of fine-tuned FedAvg among personalized methods. (Two alphas "
        "of a data set share its images; of Fashion-MNIST only round 400 is known.)",
        LOGGED_02,
    )


def _who_is_best() -> Finding:
    told = []
    for when, table in _stages().items():
        lead = leads(table)
        told.append(
            f"{when} local training {winners(table)} (leads: median {lead.median():.2f}, at most "
            f"{lead.max():.2f} points)"
        )
    return Finding(
        "Who is best depends on when one looks",
        f"Columns in which one of the eleven logged methods is best: {'; '.join(told)}. With one "
        "seed, the small leads after training rank nobody. FedALA and FedSelect were not logged at "
        "momentum 0.7.",
        LOGGED_02,
    )


def _printed_cells() -> Finding:
    cells = explained_cells()
    told = cells[cells["explanation"].isin([MIX, OPEN, NONE])]
    organs = told["dataset"].isin(ORGANS)
    count, without = told["explanation"].value_counts(), told[~organs]["explanation"]
    of_organs = (told[organs]["explanation"] == MIX).sum()
    chance = by_chance()
    return Finding(
        "Most printed cells of eight methods are a mix of momentum 0 and 0.7, with one seed",
        f"Eight methods have three result sheets at momentum 0 and a run at momentum 0.7. "
        f"{count[MIX]} of their {len(told)} printed cells are, to the digit, mean and population "
        f"deviation of these four values. {count[OPEN]} more, of Fashion-MNIST, are open: the "
        "best evaluation is not in the kit, but a possible value fits. Without the two organ sets "
        f"that is {(without == MIX).sum()} and {count[OPEN]} open of {len(without)}; of the organ "
        f"sets' {organs.sum()} it is {of_organs}. By chance it would be {chance.mean():.1f} cells "
        f"(at most {chance.max()} in {len(chance):,} permutations). All logs have seed 42, so a "
        "printed deviation is one over momentum and repetition, not over seeds. "
        f"{_own_cells()}",
        "notebook 09",
    )


def _own_cells() -> str:
    """How many of FedOBP's printed means are a logged evaluation."""
    printed = published_accuracy().query("method == 'fedobp'")
    logged = _latest().query("method == 'fedobp' and stage == 'before'")
    values = logged.groupby(CELL)["accuracy"].agg(set)
    found = [
        f"{row.dataset} {row.alpha:g}"
        for row in printed.itertuples()
        if row.accuracy_mean_percent in values.get((row.dataset, row.alpha), set())
    ]
    return (
        f"FedOBP has one sheet or none, so the mix cannot be tried; of its {len(printed)} printed "
        f"means {len(found)} are a logged evaluation of its main runs ({', '.join(found)})."
    )


def _quantiles() -> Finding:
    runs = logged_runs().query("experiment == 'accuracy' and method == 'fedobp'")
    latest = runs.sort_values("run").groupby(CELL).last()
    printed = published_quantiles().set_index(CELL)["quantile"]
    other = int((latest["quantile"] != printed.reindex(latest.index)).sum())
    low, high = latest["ema"].min(), latest["ema"].max()
    norm = ", ".join(sorted(set(latest["normalization"])))
    return Finding(
        "The logged FedOBP has other settings than the printed one",
        f"In {other} of {len(latest)} columns the logged quantile is not Table 5's. All main runs "
        f"scale the score (`{norm}`) and keep a moving average of it (coefficient {low:g} to "
        f"{high:g}), which the paper does not mention. Their public code of January 2025 scores "
        "by |(local - global) * local| (setting `score=saliency`), that of May 2025 by the "
        "paper's (local - global)^2. Runs of ours with either score, beside the logged ones, "
        "stand in `benchmarks/README.md`.",
        LOGGED_06,
    )


def _cifar100() -> Finding:
    cell = "dataset == 'cifar100' and alpha == 0.1"
    printed = published_accuracy().query(cell).set_index("method")["accuracy_mean_percent"]
    table_8 = published_normalizations().query(f"{cell} and normalization == 'none'")
    logged = _stages()["before"].loc[("cifar100", 0.1)]
    ablation = logged_normalizations().query(f"{cell} and normalization == 'none'")["accuracy"]
    sheet = logged_sheets().query(f"{cell} and method == 'fedobp'")["accuracy"].max()
    leads = [v["fedobp"] - v.drop("fedobp").max() for v in (printed, logged)]
    return Finding(
        "CIFAR-100: what Table 1 prints for FedOBP is not in the logs",
        f"Table 1 prints {printed['fedobp']:.2f} at alpha 0.1, {leads[0]:.2f} points ahead of the "
        f"next method. The logged main run has {logged['fedobp']:.2f} at best, {leads[1]:.2f} "
        f"ahead; the logged ablation has {ablation.max():.2f}, and Table 8 prints "
        f"{table_8['accuracy_percent'].iloc[0]:.2f}. The one sheet at momentum 0 has {sheet:.2f}.",
        LOGGED_02,
    )


def _normalization() -> Finding:
    logged = logged_normalizations()
    best = logged.groupby(["dataset", "normalization"])["accuracy"].max()
    printed = published_normalizations().set_index(["dataset", "normalization"])
    printed = printed["accuracy_percent"]
    other = printed[best.reindex(printed.index).round(2) != printed.round(2)]
    both = logged.pivot_table(
        index=["dataset", "round"], columns="normalization", values="accuracy"
    )
    gap = (both["none"] - both["global"]).abs()
    names = ", ".join(other.index.get_level_values("dataset"))
    return Finding(
        "Table 8 is its logs, and GlobalNorm changes nothing",
        f"{len(printed) - len(other)} of {len(printed)} cells are the best of four logged "
        f"evaluations, to the digit; the others are GlobalNorm with CLS on {names}. "
        "Scaling all scores by one increasing map cannot change which lie above a quantile: "
        f"GlobalNorm and NoNorm are equal in {(gap == 0).sum()} of {len(gap)} logged evaluations, "
        f"and at most {gap.max():.2f} points apart in the others. The quantiles are others than "
        "Table 5's, and `LayerNorm` scales each tensor, not each layer.",
        LOGGED_06,
    )


def _layers() -> Finding:
    table = layer_table(layer_frame(logged_results("layers")))
    shares = table[table["layer"] == "classifier"].set_index("dataset")["share_of_personalized"]
    told = ", ".join(
        f"{name} {share / 100:.2f}" for name, share in shares.sort_values(ascending=False).items()
    )
    return Finding(
        "Where the personal parameters lie",
        f"Classifier's share of them after round 300 (the logs count groups of ten clients, tests "
        f"among them): {told}. The text says 0.9 to 1.0 for CIFAR10 and CIFAR100.",
        LOGGED_05,
    )


def _organs() -> Finding:
    before = _stages()["before"].loc[list(ORGANS)]
    near = [m for m in before if (before.max(axis=1) - before[m]).max() < 1]
    told = []
    for cell in before.index:
        values = before.loc[cell, near]
        told.append(f"{values.min():.2f} to {values.max():.2f} ({cell[0]}, {cell[1]:g})")
    names = ", ".join(METHODS[str(method)].title for method in near)
    return Finding(
        "The organ sets do not compare methods",
        "Their pixels were normalized with constants for another range, so every image is nearly "
        f"the same. {len(near)} of the eleven logged methods ({names}) lie within a point of the "
        f"best in all four columns: {', '.join(told)}. A client that always answers with its most "
        "frequent class gets about as much (`majority-class` in the kit, which needs the data).",
        LOGGED_02,
    )


@cache
def _cloud_edge() -> Finding:
    told = []
    for model, name in (("avgcnn", "AvgCNN"), ("resnet18", "ResNet-18")):
        config = RunConfig(method="fedobp", dataset="cifar10", alpha=0.1, model=model).resolved()
        client, server, sparse = (
            round_costs(replace(config, settings=settings), CIFAR10_SAMPLES)
            for settings in ({}, {"scoring": "server"}, {"scoring": "server", "downlink": "sparse"})
        )
        scores = 100 * (client["gflop"] / server["gflop"] - 1)
        more = round(1e6 * (sparse["megabytes"] - client["megabytes"]))
        told.append(
            f"{scores:.3f} % of its round's FLOPs and {client['kept']:.1f} MB of state with {name} "
            f"(server: {server['server'] / 1e3:.1f} GB for {config.clients} clients; with a sparse "
            f"downlink {more:,} bytes more to send)"
        )
    return Finding(
        "Scores on the server spare a client memory, hardly any work",
        "The second version moves the scores to the server so that weak devices do less. Counted "
        f"for CIFAR-10 at {CIFAR10_SAMPLES} samples a client, they cost it {', '.join(told)}. The "
        "history is the same either way, byte for byte; Fisher scores must stay with the client.",
        "notebook 10",
    )


FINDINGS: Sequence[Callable[[], Finding]] = (
    _fine_tuned, _who_is_best, _printed_cells, _quantiles, _cifar100, _normalization, _layers,
    _organs, _cloud_edge,
)  # fmt: skip


def _latest() -> pd.DataFrame:
    frame = logged_accuracy().query("momentum == 0.7")
    keys = [*CELL, "method"]
    return frame[frame["run"] == frame.groupby(keys)["run"].transform("max")]


def _stages() -> Stages:
    return stages(logged_results("accuracy"))
