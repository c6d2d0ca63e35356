"""`fedobp findings`: what the authors' own logs settle about the paper, in sentences.

Every number is computed here from the package's data, which are the printed tables and what the
authors logged; none is typed. `FINDINGS.md` is this text, and a test holds it to that.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ..methods import METHODS
from ..paper.logged import logged_accuracy, logged_normalizations, logged_runs
from ..paper.published import (
    published_accuracy,
    published_normalizations,
    published_quantiles,
)
from .layers import layer_frame, layer_table
from .logged import logged_results
from .printed_cells import MIX, NONE, OPEN, by_chance, explained_cells

CELL = ["dataset", "alpha"]
ORGANS = ("medmnistA", "medmnistC")
LAST = 400  # the last logged round
RESAMPLES = 10_000


@dataclass(frozen=True)
class Finding:
    """A heading, its sentences, and the notebook that shows it."""

    heading: str
    text: str
    notebook: str


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
            "of all clients."
        ),
    ]
    for number, finding in enumerate(findings(), 1):
        where = f"*Shown by notebook {finding.notebook}.*"
        lines += ["", f"## {number}. {finding.heading}", "", _wrapped(f"{finding.text} {where}")]
    return "\n".join(lines) + "\n"


def findings() -> list[Finding]:
    """All findings, in order of weight."""
    return [make() for make in FINDINGS]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 99, break_long_words=False, break_on_hyphens=False)


def _fine_tuned() -> Finding:
    before, after = _best_before(), _last_after()
    pairs = pd.DataFrame({"ours": before["fedobp"], "tuned": after["fedavg"]})
    same = pd.DataFrame({"ours": after["fedobp"], "tuned": after["fedavg"]})
    difference = (pairs["ours"] - pairs["tuned"]).to_numpy()
    low, high = _interval(difference)
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    p_value = binomtest(wins, wins + losses).pvalue
    lead = (before["fedobp"] - before["fedavg"]).mean()
    level = (same["ours"] - same["tuned"]).mean()
    return Finding(
        "FedAvg with one round of local training is level with FedOBP",
        f"Over the {len(pairs)} columns of Tables 1 and 6, FedOBP before (best of four "
        f"evaluations) less FedAvg after (round {LAST}) is {difference.mean():+.2f} points on "
        f"average (95 % bootstrap interval over columns {low:+.2f} to {high:+.2f}); FedOBP is "
        f"ahead in {wins} and behind in {losses} (sign test, p = {p_value:.2f}). Its lead of "
        f"{lead:.1f} points over FedAvg is one before local training: after it the two differ by "
        f"{level:+.2f}. Matsuda et al. (arXiv 2206.13190) found the same of fine-tuned FedAvg "
        "among personalized methods.",
        "02",
    )


def _who_is_best() -> Finding:
    told = []
    for when, table in (("before", _best_before()), ("after", _last_after())):
        counts = table.idxmax(axis=1).value_counts()
        names = ", ".join(f"{METHODS[str(m)].title} {n}" for m, n in counts.items())
        told.append(f"{when} local training {names}")
    return Finding(
        "Who is best depends on when one looks",
        f"Columns in which a logged method is best: {'; '.join(told)} (of the eleven methods "
        "logged; the two without logs, FedALA and FedSelect, are left out).",
        "02",
    )


def _printed_cells() -> Finding:
    cells = explained_cells()
    count = cells["explanation"].value_counts()
    told = cells[cells["explanation"].isin([MIX, OPEN, NONE])]
    organs = told["dataset"].isin(ORGANS)
    without = told[~organs]
    chance = by_chance()
    return Finding(
        "Most printed cells are a mix of momentum 0 and 0.7, with one seed",
        f"For the eight methods with both sources, {count[MIX]} of {len(told)} printed cells are, "
        "to the digit, mean and population deviation of four logged values: three result sheets "
        f"at momentum 0 and one run at momentum 0.7. {count[OPEN]} more, of Fashion-MNIST, are "
        "open: their best evaluation is not in the kit, but a possible value fits. Without the "
        f"two organ sets that makes {without['explanation'].isin([MIX, OPEN]).sum()} of "
        f"{len(without)}. By chance it would be {chance.mean():.1f} cells (at most "
        f"{chance.max()} in {len(chance):,} permutations). All logs have seed 42, so a printed "
        "deviation is one over momentum and repetition, not over seeds. FedOBP's own 16 cells come "
        "from none of the logged values.",
        "09",
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
        "06",
    )


def _cifar100() -> Finding:
    cell = "dataset == 'cifar100' and alpha == 0.1"
    printed = published_accuracy().query(f"{cell} and method == 'fedobp'")
    table_8 = published_normalizations().query(f"{cell} and normalization == 'none'")
    logged = _best_before().loc[("cifar100", 0.1), "fedobp"]
    ablation = logged_normalizations().query(f"{cell} and normalization == 'none'")["accuracy"]
    return Finding(
        "CIFAR-100: the printed 8-point lead is not in the logs",
        f"Table 1 prints {printed['accuracy_mean_percent'].iloc[0]:.2f} for FedOBP at alpha 0.1; "
        f"the logged main run has {logged:.2f} at best, the logged ablation "
        f"{ablation.max():.2f}, and Table 8 prints {table_8['accuracy_percent'].iloc[0]:.2f}.",
        "06",
    )


def _normalization() -> Finding:
    logged = logged_normalizations()
    best = logged.groupby(["dataset", "normalization"])["accuracy"].max()
    printed = published_normalizations().set_index(["dataset", "normalization"])
    printed = printed["accuracy_percent"]
    same = int((best.reindex(printed.index).round(2) == printed.round(2)).sum())
    both = logged.pivot_table(
        index=["dataset", "round"], columns="normalization", values="accuracy"
    )
    equal = int((both["none"] == both["global"]).sum())
    return Finding(
        "Table 8 is its logs, and GlobalNorm changes nothing",
        f"{same} of {len(printed)} cells are the best of four logged evaluations, to the digit. "
        f"Scaling all scores by one increasing map cannot change which lie above a quantile: "
        f"GlobalNorm and NoNorm are equal in {equal} of {len(both)} logged evaluations, and differ "
        "by rounding in the others. The quantiles are others than Table 5's, and `LayerNorm` "
        "scales each tensor, not each layer.",
        "06",
    )


def _layers() -> Finding:
    table = layer_table(layer_frame(logged_results("layers")))
    shares = table[table["layer"] == "classifier"].set_index("dataset")["share_of_personalized"]
    told = ", ".join(
        f"{name} {share / 100:.2f}" for name, share in shares.sort_values(ascending=False).items()
    )
    return Finding(
        "Where the personal parameters lie",
        f"Classifier's share of them after round 300: {told}. The text says 0.9 to 1.0 for CIFAR10 "
        "and CIFAR100.",
        "05",
    )


def _organs() -> Finding:
    before = _best_before().loc[list(ORGANS)]
    close = before.drop(columns=["fedavg", "apfl", "floco", "feddpa", "flute"])
    spread = (close.max(axis=1) - close.min(axis=1)).max()
    best = ", ".join(f"{close.loc[(d, a)].max():.2f} ({d}, {a:g})" for d, a in close.index)
    return Finding(
        "The organ sets do not compare methods",
        "Their pixels were normalized with constants for another range, so every image is nearly "
        f"the same. The six methods with a personal classifier or model lie within {spread:.2f} "
        f"points of each other there; the best has {best}, about what each client gets by always "
        "answering with its most frequent class (`majority-class` in the kit).",
        "02",
    )


FINDINGS: Sequence[Callable[[], Finding]] = (
    _fine_tuned, _who_is_best, _printed_cells, _quantiles, _cifar100, _normalization, _layers,
    _organs,
)  # fmt: skip


def _latest() -> pd.DataFrame:
    frame = logged_accuracy().query("momentum == 0.7")
    keys = [*CELL, "method"]
    return frame[frame["run"] == frame.groupby(keys)["run"].transform("max")]


def _best_before() -> pd.DataFrame:
    """A row a column of the tables, a column a method: best of the evaluations, before."""
    before = _latest().query("stage == 'before'")
    return before.groupby([*CELL, "method"])["accuracy"].max().unstack("method")


def _last_after() -> pd.DataFrame:
    """The same after local training, in the last round."""
    after = _latest().query("stage == 'after' and round == @LAST")
    return after.groupby([*CELL, "method"])["accuracy"].last().unstack("method")


def _interval(values: np.ndarray) -> tuple[float, float]:
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
