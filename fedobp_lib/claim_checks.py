"""How a claim of the paper is tested: each check takes evidence and gives a `Finding`.

Evidence is mean accuracies (`Means`) or finished runs. Where the paper's words give no bound, one
percentage point is the bound. All accuracies are in percent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .figures import convergence_frame, rounds_to_reach
from .methods import METHODS
from .paper import METHOD_NAMES, table5_quantile
from .runs import RunResult

POINT = 1.0  # percentage point
SHARE_REACHED = 0.95  # convergence: of FedOBP's best accuracy
SCORES = {"gradient": "I_G", "fisher": "I_F", "obp": "I_O"}
RIVALS = tuple(name for name in METHOD_NAMES.values() if name != "fedobp")

Means = Mapping[tuple[str, float, str], float]  # (data set, alpha, method) -> accuracy
# (data set, alpha) -> score -> accuracy by quantile
ScoreCurves = Mapping[tuple[str, float], Mapping[str, pd.Series]]


@dataclass(frozen=True)
class Finding:
    """What was measured, in words, and whether the claim holds; None: cannot be told yet."""

    measured: str
    holds: bool | None = None

    @staticmethod
    def all_of(parts: Sequence[Finding]) -> Finding:
        """Holds if every part does; one part that does not settles it."""
        told = "; ".join(part.measured for part in parts if part.measured)
        answers = [part.holds for part in parts]
        if False in answers:
            return Finding(told, False)
        return Finding(told, None if None in answers or not answers else True)


UNKNOWN = Finding("")


# --- Tables 1, 6 and 7: FedOBP and its rivals -------------------------------------------------


def _rivals(means: Means, dataset: str, alpha: float, rivals: Sequence[str]) -> dict[str, float]:
    """Accuracies of the rivals that were run, best first."""
    found = {m: means[dataset, alpha, m] for m in rivals if (dataset, alpha, m) in means}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def ahead(
    means: Means,
    dataset: str,
    alpha: float,
    rivals: Sequence[str],
    margin: float | None = None,
    second: str | None = None,
) -> Finding:
    """FedOBP is ahead of every rival; where given, by a margin, and `second` is the next."""
    ours = means.get((dataset, alpha, "fedobp"))
    found = _rivals(means, dataset, alpha, rivals)
    if ours is None or not found:
        return UNKNOWN
    best, value = next(iter(found.items()))
    lead = round(ours - value, 2)
    told = f"{dataset} {alpha:g}: {lead:+.2f} over {_title(best)}"
    if len(found) < len(rivals):
        told += f" (of {len(found)} rivals run, the paper has {len(rivals)})"
    if lead <= 0:
        return Finding(told, False)
    if len(found) < len(rivals):
        return Finding(told)
    right = margin is None or abs(lead - margin) <= POINT + 1e-9
    return Finding(told, right and (second is None or _level(found, second)))


def near(
    means: Means,
    dataset: str,
    alpha: float,
    rivals: Sequence[str],
    gap: float = 0.0,
    best: str | None = None,
) -> Finding:
    """The best rival is ahead of FedOBP by no more than a gap and a point; where given, it is
    `best`."""
    ours = means.get((dataset, alpha, "fedobp"))
    found = _rivals(means, dataset, alpha, rivals)
    if ours is None or not found:
        return UNKNOWN
    first, value = next(iter(found.items()))
    behind = round(value - ours, 2)
    told = f"{dataset} {alpha:g}: {0 - behind:+.2f} to {_title(first)}"
    if len(found) < len(rivals):
        told += f" (of {len(found)} rivals run, the paper has {len(rivals)})"
    if behind > gap + POINT:
        return Finding(told, False)
    if len(found) < len(rivals):
        return Finding(told)
    return Finding(told, best is None or _level(found, best))


def _level(found: Mapping[str, float], method: str) -> bool:
    """Whether a method is the best of those found, or level with it at two decimals."""
    return round(found[method], 2) == round(max(found.values()), 2)


def no_better_than_majority(means: Means, dataset: str, alpha: float) -> Finding:
    """FedOBP is at most a point above the majority class."""
    ours = means.get((dataset, alpha, "fedobp"))
    naive = means.get((dataset, alpha, "majority-class"))
    if ours is None or naive is None:
        return UNKNOWN
    told = f"{dataset} {alpha:g}: FedOBP {ours:.2f}, Majority class {naive:.2f}"
    return Finding(told, ours - naive <= POINT)


def on_cells(check: Callable[..., Finding], cells: Sequence[tuple[str, float]], **given: Any):
    """The same check on several cells."""
    return lambda means: Finding.all_of([check(means, *cell, **given) for cell in cells])


def _title(method: str) -> str:
    return METHODS[method].title if method in METHODS else method


# --- Table 8: normalizations ------------------------------------------------------------------


def _panels(means: Means) -> list[tuple[str, float]]:
    return list(dict.fromkeys((dataset, alpha) for dataset, alpha, _ in means))


def layer_norm_below(means: Means) -> Finding:
    """LayerNorm is below NoNorm and GlobalNorm wherever all three were run."""
    parts = []
    for dataset, alpha in _panels(means):
        found = {n: means.get((dataset, alpha, n)) for n in ("none", "layer", "global")}
        if None in found.values():
            continue
        told = f"{dataset}: LayerNorm {found['layer']:.2f}, NoNorm {found['none']:.2f}, "
        told += f"GlobalNorm {found['global']:.2f}"
        parts.append(Finding(told, found["layer"] < min(found["none"], found["global"])))
    return Finding.all_of(parts)


def global_like_none(means: Means) -> Finding:
    """GlobalNorm is within a point of NoNorm wherever both were run."""
    parts = []
    for dataset, alpha in _panels(means):
        none, same = (means.get((dataset, alpha, n)) for n in ("none", "global"))
        if none is not None and same is not None:
            told = f"{dataset}: GlobalNorm {round(same - none, 2):+.2f} to NoNorm"
            parts.append(Finding(told, abs(same - none) <= POINT))
    return Finding.all_of(parts)


def best_normalization(means: Means, expected: Mapping[str, str]) -> Finding:
    """The normalization expected of each data set is best there, or level with the best."""
    parts = []
    for dataset, name in expected.items():
        found = {n: v for (d, a, n), v in means.items() if d == dataset and a == 0.1}
        if len(found) < 4:
            parts.append(UNKNOWN)
            continue
        best = [n for n, value in found.items() if value == max(found.values())]
        parts.append(Finding(f"{dataset}: best {', '.join(best)}", name in best))
    return Finding.all_of(parts)


def classifier_only(means: Means, like: Sequence[str], worse: Sequence[str]) -> Finding:
    """With the classifier alone: within a point on some data sets, below on others."""
    parts = []
    for dataset in (*like, *worse):
        every = means.get((dataset, 0.1, "global"))
        only = means.get((dataset, 0.1, "global_classifier_only"))
        if every is None or only is None:
            parts.append(UNKNOWN)
            continue
        change = round(only - every, 2)
        right = abs(change) <= POINT if dataset in like else change < 0
        parts.append(Finding(f"{dataset}: {change:+.2f} with CLS", right))
    return Finding.all_of(parts)


# --- Figures 4, 8 and 9: the three scores -----------------------------------------------------


def score_means(results: Sequence[RunResult]) -> pd.DataFrame:
    """Mean accuracy of FedOBP by score and quantile: dataset, alpha, score, quantile, accuracy.

    Before local training, pooled, best of the evaluated rounds, in percent; mean over seeds.
    """
    rows = []
    for result in results:
        config = result.config
        if config.method != "fedobp":
            continue
        quantile = config.settings["quantile"]
        if quantile is None:
            quantile = table5_quantile(config.dataset, config.alpha)
        accuracy = result.accuracy(which="best")
        rows.append([config.dataset, config.alpha, config.settings["score"], quantile, accuracy])
    keys = ["dataset", "alpha", "score", "quantile"]
    frame = pd.DataFrame(rows, columns=[*keys, "accuracy"])
    return frame.groupby(keys)["accuracy"].mean().reset_index()


def score_curves(results: Sequence[RunResult]) -> ScoreCurves:
    """FedOBP's accuracy by quantile, where more than two were run; see `score_means`."""
    curves: dict[tuple[str, float], dict[str, pd.Series]] = {}
    for (*panel, score), group in score_means(results).groupby(["dataset", "alpha", "score"]):
        if len(group) > 2:
            curves.setdefault(tuple(panel), {})[score] = group.set_index("quantile")["accuracy"]
    return curves


def rise_and_decline(curves: ScoreCurves) -> Finding:
    """Each score is best somewhere between the smallest and the largest quantile."""
    parts = []
    for (dataset, alpha), scores in curves.items():
        for score in (s for s in SCORES if s in scores):
            curve = scores[score]
            first, last, peak = curve.iloc[0], curve.iloc[-1], curve.max()
            best = curve.index[curve == peak].max()  # of equals the one that keeps fewest
            told = (
                f"{dataset} {alpha:g} {SCORES[score]}: {first:.2f} at q={curve.index[0]:g}, "
                f"{peak:.2f} at {best:g}, {last:.2f} at {curve.index[-1]:g}"
            )
            parts.append(Finding(told, peak > max(first, last)))
        parts += [UNKNOWN] * (len(SCORES) - len(scores))
    return Finding.all_of(parts)


def peak(
    curves: ScoreCurves,
    dataset: str,
    score: str,
    quantile: float | None = None,
    above: float | None = None,
) -> Finding:
    """The best accuracy is at a quantile, or above one; equal bests all count."""
    curve = curves.get((dataset, 0.1), {}).get(score)
    if curve is None:
        return UNKNOWN
    best = curve.index[curve == curve.max()]
    told = f"{SCORES[score]} peaks at q={', '.join(f'{q:g}' for q in best)} ({curve.max():.2f})"
    if above is not None:
        return Finding(told, bool((best > above).any()))
    if quantile not in curve.index:
        return Finding(f"{told}; q={quantile:g} was not run")
    return Finding(f"{told}; {curve[quantile]:.2f} at q={quantile:g}", quantile in best)


def stable(curves: ScoreCurves, datasets: Sequence[str]) -> Finding:
    """Over the quantiles, FedOBP's score has the smallest range of the three."""
    parts = []
    for dataset in datasets:
        scores = curves.get((dataset, 0.1), {})
        if set(scores) != set(SCORES):
            parts.append(UNKNOWN)
            continue
        spread = {score: curve.max() - curve.min() for score, curve in scores.items()}
        told = ", ".join(f"{SCORES[score]} {width:.2f}" for score, width in spread.items())
        smallest = spread["obp"] <= min(spread["gradient"], spread["fisher"])
        parts.append(Finding(f"{dataset}: highest less lowest {told}", smallest))
    return Finding.all_of(parts)


# --- Figures 5 and 10: where the personalized parameters are ----------------------------------


def layer_shares(results: Sequence[RunResult]) -> pd.DataFrame:
    """Share of FedOBP's personalized parameters that lies in each layer.

    Returns:
        dataset, alpha, round, layer, share (0 to 1, mean over seeds). Rounds in which nothing is
        personal yet are left out.
    """
    parts = []
    for result in results:
        if result.config.method != "fedobp":
            continue
        layers = result.layers
        total = layers.groupby("round")["personalized"].transform("sum")
        layers = layers.assign(
            dataset=result.config.dataset,
            alpha=result.config.alpha,
            share=layers["personalized"] / total.where(total > 0),
        )
        parts.append(layers.dropna(subset="share"))
    keys = ["dataset", "alpha", "round", "layer"]
    if not parts:
        return pd.DataFrame(columns=[*keys, "share"])
    return pd.concat(parts).groupby(keys, sort=False)["share"].mean().reset_index()


def first_layer_to_last(shares: pd.DataFrame) -> Finding:
    """conv1 loses and the classifier gains, from the first to the last quarter of the rounds."""
    parts = []
    for (dataset, alpha), panel in shares.groupby(["dataset", "alpha"], sort=False):
        table = panel.pivot(index="round", columns="layer", values="share")
        if not {"conv1", "classifier"} <= set(table) or len(table) < 2:
            continue
        quarter = -(-len(table) // 4)
        early, late = table.iloc[:quarter].mean(), table.iloc[-quarter:].mean()
        told = ", ".join(
            f"{layer} {early[layer]:.3f} to {late[layer]:.3f}" for layer in ("conv1", "classifier")
        )
        right = late["conv1"] < early["conv1"] and late["classifier"] > early["classifier"]
        parts.append(Finding(f"{dataset} {alpha:g}: {told}", bool(right)))
    return Finding.all_of(parts)


def shares_between(
    shares: pd.DataFrame,
    dataset: str,
    rounds: tuple[int, int],
    classifier: tuple[float, float],
    conv1: tuple[float, float],
) -> Finding:
    """The mean shares over some rounds lie in ranges, at two decimals."""
    shares = shares.query("dataset == @dataset and alpha == 0.1")
    if shares.empty:
        return UNKNOWN
    first, last = rounds
    inside = shares[shares["round"].between(first, last)]
    if inside.empty:
        return Finding(f"no run reaches round {first}")
    mean = inside.groupby("layer")["share"].mean()
    parts = []
    for layer, (low, high) in (("classifier", classifier), ("conv1", conv1)):
        share = round(float(mean[layer]), 2)
        parts.append(Finding(f"{layer} {share:.2f}", low <= share <= high))
    return Finding.all_of(parts)


# --- Figures 2, 3, 6 and 7: convergence -------------------------------------------------------


def curves(results: Sequence[RunResult]) -> pd.DataFrame:
    """The smoothed mean curves of Figures 2, 3, 6 and 7; see `figures.convergence_frame`."""
    if not results:
        return pd.DataFrame(columns=["dataset", "alpha", "method", "round", "mean"])
    return convergence_frame(results)


def _ends(frame: pd.DataFrame) -> Means:
    return frame.groupby(["dataset", "alpha", "method"])["mean"].last().to_dict()


def on_curves(
    check: Callable[..., Finding], alpha: float, datasets: Sequence[str], **given: Any
) -> Callable[[pd.DataFrame], Finding]:
    """A check of accuracies, on the ends of the curves."""
    checked = on_cells(check, [(dataset, alpha) for dataset in datasets], **given)
    return lambda frame: checked(_ends(frame))


def fastest(frame: pd.DataFrame, dataset: str, alpha: float) -> Finding:
    """No rival reaches 95 % of FedOBP's best value in fewer rounds."""
    panel = frame[(frame["dataset"] == dataset) & (frame["alpha"] == alpha)]
    reached = rounds_to_reach(panel, SHARE_REACHED)
    reached = reached.set_index("method")["round"].dropna().astype(int)
    if "fedobp" not in reached:
        return UNKNOWN
    run = set(panel["method"]) & set(RIVALS)
    rivals = reached[reached.index.isin(RIVALS)]
    told = f"{dataset} {alpha:g}: FedOBP in round {reached['fedobp']}"
    if len(rivals):
        told += f", {_title(rivals.idxmin())} in {rivals.min()}"
        if rivals.min() < reached["fedobp"]:
            return Finding(told, False)
    return Finding(told, True if len(run) == len(RIVALS) else None)


def every(*checks: Callable[[Any], Finding]) -> Callable[[Any], Finding]:
    """All of several checks of the same evidence."""
    return lambda evidence: Finding.all_of([check(evidence) for check in checks])


def ends_between(
    frame: pd.DataFrame,
    dataset: str,
    alpha: float,
    bounds: Mapping[str, tuple[float, float]],
) -> Finding:
    """Methods whose curves end between two accuracies."""
    ends, parts = _ends(frame), []
    for method, (low, high) in bounds.items():
        value = ends.get((dataset, alpha, method))
        if value is None:
            parts.append(UNKNOWN)
        else:
            parts.append(Finding(f"{_title(method)} {value:.2f}", low < value < high))
    return Finding.all_of(parts)


def peak_round(frame: pd.DataFrame, dataset: str, alpha: float, about: int) -> Finding:
    """FedOBP's curve first comes within a point of its best value 50 rounds around a round."""
    ours = (frame["dataset"] == dataset) & (frame["alpha"] == alpha) & (frame["method"] == "fedobp")
    curve = frame[ours]
    if curve.empty:
        return UNKNOWN
    if curve["round"].max() < about + 50:
        return Finding(f"{dataset}: no run goes beyond round {about + 50}")
    first = int(curve.loc[curve["mean"] >= curve["mean"].max() - POINT, "round"].iloc[0])
    return Finding(f"{dataset}: round {first}", abs(first - about) <= 50)
