"""Rules of selection and controls beside the quantile that was tuned (notebook 13).

Differences are paired: of two runs with one seed, which share the initial model, the cohorts and
the batches. Their interval is Student's over seeds, as seeds are what others would draw anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from .. import paths
from ..paper.published import published_quantiles
from ..runs.rules import KEPT, NO_NUMBER, ONE_NUMBER, rule_variants, variant_of
from ..runs.store import RunResult
from ..training.evaluation import STAGES
from .kept_runs import KeptRun, kept_results
from .tables import FINE_TUNED

CELL = ["dataset", "alpha"]
TUNED = "table5"
MARGIN = 0.5  # points that a rule may be behind the tuned quantile


def runs_on_mnist() -> list[KeptRun]:
    """The runs of 50 rounds that the repository keeps: those of seeds that have every variant.

    A mean over other seeds than its neighbour's would not be comparable.

    Raises:
        UserError: the files are not there, or not as they were written.
    """
    kept = kept_results(paths.kept_dir(KEPT))
    found: dict[int, set[str]] = {}
    for result in kept:
        variant = variant_of(result.config)
        found.setdefault(result.config.seed, set()).add(variant.name if variant else "")
    wanted = {variant.name for variant in rule_variants("mnist")}
    return [result for result in kept if found[result.config.seed] >= wanted]


def variant_runs(results: Sequence[RunResult]) -> pd.DataFrame:
    """The runs of `rules.rule_variants`, a row each.

    Returns:
        dataset, alpha, variant, title, kind, seed, before and after (accuracy in the last round,
        all clients, pooled, percent; NaN if the run diverged), personal (mean number of parameters
        in the last round).
    """
    rows = []
    for result in results:
        config, variant = result.config, variant_of(result.config)
        if variant is None:
            continue
        told = [config.dataset, config.alpha, variant.name, variant.title, variant.kind]
        accuracies = [result.accuracy(stage) for stage in STAGES]
        personal = result.summary["personalized_parameters"]
        rows.append([*told, config.seed, *accuracies, personal])
    return pd.DataFrame(
        rows, columns=[*CELL, "variant", "title", "kind", "seed", *STAGES, "personal"]
    )


def rule_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracies and numbers of personal parameters, a row a variant, best last.

    Args:
        runs: as `variant_runs` gives them.

    Returns:
        dataset, alpha, variant, title, kind, seeds, before, before_std, after, after_std (mean and
        deviation over seeds; NaN of one), personal (mean), and difference, low, high of `before`
        to Table 5's quantile (see `paired`).
    """
    keys = [*CELL, "variant", "title", "kind"]
    table = runs.groupby(keys, sort=False).agg(
        seeds=("seed", "count"),
        before=("before", "mean"), before_std=("before", "std"),
        after=("after", "mean"), after_std=("after", "std"),
        personal=("personal", "mean"),
    ).reset_index()  # fmt: skip
    beside = pd.concat([paired(runs, name, TUNED) for name in runs["variant"].unique()])
    table = table.merge(beside.drop(columns=["seeds"]), on=[*CELL, "variant"], how="left")
    return table.sort_values([*CELL, "before"], ignore_index=True)


def difference_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Each variant less Table 5's quantile at the same stage, and FedAvg after fine-tuning less
    that quantile before any.

    Returns:
        dataset, alpha, variant, title, stage, difference, low, high, seeds; in the order of
        `rules.rule_variants`.
    """
    parts = []
    for variant in rule_variants(runs["dataset"].iloc[0]) if len(runs) else []:
        if variant.name != TUNED:
            parts += [
                paired(runs, variant.name, TUNED, stage, stage).assign(
                    title=variant.title, stage=stage
                )
                for stage in STAGES
            ]
    tuned = paired(runs, "fedavg", TUNED, "after", "before")
    parts.append(tuned.assign(variant="fedavg_tuned", title=FINE_TUNED, stage="before"))
    columns = [*CELL, "variant", "title", "stage", "difference", "low", "high", "seeds"]
    return pd.concat(parts, ignore_index=True)[columns]


def paired(
    runs: pd.DataFrame, variant: str, against: str, stage: str = "before", other: str = "before"
) -> pd.DataFrame:
    """One variant's accuracy less another's, seed by seed.

    Args:
        runs: as `variant_runs` gives them.
        variant, against: their names.
        stage, other: `before` or `after` local training, of the one and of the other.

    Returns:
        dataset, alpha, variant, difference (mean over the seeds that both have, in points), low and
        high (95 %, Student's; NaN of one seed), seeds; a row for each cell that has both.
    """
    ours, theirs = (
        runs[runs["variant"] == name].set_index([*CELL, "seed"])[column]
        for name, column in ((variant, stage), (against, other))
    )
    rows = []
    for (dataset, alpha), values in (ours - theirs).dropna().groupby(level=CELL, sort=False):
        mean, count = values.mean(), len(values)
        half = np.nan
        if count > 1:
            half = stats.sem(values) * stats.t.ppf(0.975, count - 1)
        rows.append([dataset, alpha, variant, mean, mean - half, mean + half, count])
    return pd.DataFrame(rows, columns=[*CELL, "variant", "difference", "low", "high", "seeds"])


def worst(runs: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """Where rules do worst beside Table 5's quantile: a row of `paired` each, the best rule first.

    Only rules that were run wherever that quantile was.
    """
    cells = len(paired(runs, TUNED, TUNED))
    frames = [paired(runs, name, TUNED) for name in variants]
    whole = [f.sort_values("difference").head(1) for f in frames if 0 < len(f) == cells]
    found = pd.concat(whole) if whole else paired(runs, TUNED, "nothing")
    return found.sort_values("difference", ascending=False, ignore_index=True)


def in_table_5(runs: pd.DataFrame) -> bool:
    """Whether Table 5 has a quantile for each data set and alpha; else `TUNED` has the default."""
    known = set(published_quantiles()[CELL].itertuples(index=False, name=None))
    return set(runs[CELL].itertuples(index=False, name=None)) <= known


ADVICE = (
    "Of the rules whose number, if they have one, is the same for all data sets: those at most "
    f"{MARGIN} points behind Table 5's quantile on every data set, before training, on average; of "
    "these one without a number before one with; of these the one that does best where it does "
    "worst."
)


def advice(runs: pd.DataFrame) -> str:
    """What we would use, by the rule `ADVICE`, in a sentence."""
    known = runs.drop_duplicates("variant").set_index("variant")
    kinds, titles = known["kind"], known["title"]
    means = runs.groupby("variant")["personal"].mean()
    for kind in (NO_NUMBER, ONE_NUMBER):
        found = worst(runs, list(kinds.index[kinds == kind]))
        good = found[found["difference"] >= -MARGIN]
        if len(good):
            row = good.iloc[0]
            name = row["variant"]
            where = f"{row['dataset']}, alpha {row['alpha']:g}"
            text = (
                f'We would use "{titles[name]}" ({kind}): {row["difference"]:+.2f} points from '
                f"Table 5's quantile where it does worst ({where}), with {means[name]:,.0f} "
                "personal parameters on average."
            )
            if not in_table_5(runs):
                text += " Table 5 does not have all of the data; there the default stands for it."
            return text + _beside_fedavg(runs, name)
    return "We would tune the quantile: no rule comes near it on every data set that was run."


def _beside_fedavg(runs: pd.DataFrame, variant: str) -> str:
    """A warning where FedAvg after fine-tuning is not behind."""
    found = paired(runs, variant, "fedavg", "before", "after")
    not_ahead = found[~(found["low"] > 0)]
    if not_ahead.empty:
        return ""
    where = ", ".join(f"{r.dataset} {r.difference:+.2f}" for r in not_ahead.itertuples())
    return (
        " Where a client may train before it uses its model, FedAvg with fine-tuning is not "
        f"shown to be worse ({where})."
    )
