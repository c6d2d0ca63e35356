"""Claims about Tables 1, 6 and 7: FedOBP and its rivals. Accuracies are in percent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...paper.published import METHOD_NAMES
from ..titles import title_of
from .finding import POINT, UNKNOWN, Finding

RIVALS = tuple(name for name in METHOD_NAMES.values() if name != "fedobp")

Means = Mapping[tuple[str, float, str], float]  # (data set, alpha, method) -> accuracy


def _lead(
    means: Means, dataset: str, alpha: float, rivals: Sequence[str]
) -> tuple[float, dict[str, float], str] | None:
    """FedOBP's lead over the best rival that was run, in percentage points; None: not run.

    Returns:
        The lead, the rivals' accuracies, best first, and what to say if some were not run.
    """
    ours = means.get((dataset, alpha, "fedobp"))
    found = {m: means[dataset, alpha, m] for m in rivals if (dataset, alpha, m) in means}
    if ours is None or not found:
        return None
    found = dict(sorted(found.items(), key=lambda item: -item[1]))
    few = f" (of {len(found)} rivals run, the paper has {len(rivals)})"
    lead = round(ours - next(iter(found.values())), 2)
    return lead, found, few if len(found) < len(rivals) else ""


def ahead(
    means: Means,
    dataset: str,
    alpha: float,
    rivals: Sequence[str],
    margin: float | None = None,
    second: str | None = None,
) -> Finding:
    """FedOBP is ahead of every rival; where given, by a margin, and `second` is the next."""
    known = _lead(means, dataset, alpha, rivals)
    if known is None:
        return UNKNOWN
    lead, found, few = known
    told = f"{dataset} {alpha:g}: {lead:+.2f} over {title_of(next(iter(found)))}{few}"
    if lead <= 0:
        return Finding(told, False)
    if few:
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
    may_lead: bool = False,
) -> Finding:
    """FedOBP is behind the best rival by a gap, give or take a point.

    Args:
        means: accuracies.
        dataset, alpha: of the cell.
        rivals: of the table.
        gap: in percentage points.
        best: the best rival; None: any.
        may_lead: FedOBP may also be ahead, however far.
    """
    known = _lead(means, dataset, alpha, rivals)
    if known is None:
        return UNKNOWN
    lead, found, few = known
    told = f"{dataset} {alpha:g}: {lead + 0:+.2f} to {title_of(next(iter(found)))}{few}"
    if -lead > gap + POINT + 1e-9:
        return Finding(told, False)
    if few:
        return Finding(told)
    close = may_lead or lead + gap <= POINT + 1e-9
    return Finding(told, close and (best is None or _level(found, best)))


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


def level_with(means: Means, cell: tuple[str, float, str], value: float) -> Finding:
    """A method's accuracy on a data set and alpha is a value, give or take a point."""
    ours = means.get(cell)
    if ours is None:
        return UNKNOWN
    return Finding(f"{cell[0]} {cell[1]:g}: {ours:.2f}", abs(ours - value) <= POINT + 1e-9)


def on_cells(check: Callable[..., Finding], cells: Sequence[tuple[str, float]], **given: Any):
    """The same check on several cells."""
    return lambda means: Finding.all_of([check(means, *cell, **given) for cell in cells])
