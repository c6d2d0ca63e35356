"""What the repository keeps of long runs: two CSV files, from which they are read as runs again.

`history.csv` is tidy: dataset, alpha, method, settings, seed, round, stage, scope, average,
accuracy (percent), run_id. It has every evaluation of all clients, and the pooled accuracies of
each round's cohort. `runs.csv` has a row a run: its whole configuration, what was measured once,
the data, and what made it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ..config import ResolvedConfig, RunConfig
from ..methods import METHODS, added_settings, make_settings
from ..runs.files import read_csv, read_json, write_csv
from ..runs.store import RunResult, load_data, run_id
from ..simulation import HISTORY
from ..typed import added_fields

NAMES = ["dataset", "alpha", "method", "settings", "seed"]
COLUMNS = [*NAMES, "round", "stage", "scope", "average", "accuracy", "run_id"]
MEASURED = ("diverged", "parameters", "personalized_parameters", "seconds_total")
MADE = ("commit", "uncommitted_changes", "torch", "device", "threads", "finished")
FILES = ("history.csv", "runs.csv")


def keep(results: Sequence[RunResult], folder: Path) -> None:
    """Write both files, of finished runs, after those that the folder keeps already.

    Long runs come from several machines and days, so a run that is kept and not among `results`
    stays as it is, byte for byte, but for fields of the configuration that came later; one that is
    among them is written anew.

    Raises:
        UserError: a file that is there is not as it was written.
    """
    if not results:
        return
    history = pd.concat([_history(result) for result in results])
    # As text, like the accuracies that are there already; none stays an empty cell.
    history["accuracy"] = history["accuracy"].map("{:.4f}".format, na_action="ignore")
    runs = pd.DataFrame([_row(result) for result in results])
    if (folder / FILES[1]).exists():
        old_history, old_runs = (read_csv(folder / name, ("run_id",), text=True) for name in FILES)
        later = {k: str(v) for k, v in added_fields(ResolvedConfig).items() if k not in old_runs}
        stays = old_runs[~old_runs["run_id"].isin(runs["run_id"])].assign(**later)
        runs = pd.concat([stays, runs])[runs.columns]
        history = pd.concat([old_history[old_history["run_id"].isin(stays["run_id"])], history])
    folder.mkdir(parents=True, exist_ok=True)
    # In this order a fault between the two leaves accuracies without a run, which nobody reads.
    write_csv(folder / FILES[0], history)
    write_csv(folder / FILES[1], runs)


def not_kept(configs: Iterable[RunConfig], folder: Path) -> list[RunConfig]:
    """Those of the runs that a folder does not keep; a run belongs to its data, which is loaded.

    Raises:
        UserError: a file that is there is not as it was written, or a data set is missing.
    """
    kept: set[str] = set()
    if (folder / FILES[1]).exists():
        kept = set(read_csv(folder / FILES[1], ("run_id",), text=True)["run_id"])
    return [
        config
        for config in configs
        if run_id((known := config.resolved()), load_data(known.dataset)) not in kept
    ]


def made_by(results: Iterable[RunResult]) -> str:
    """How many runs, of which seeds, data and code, on what, in a sentence."""
    results = list(results)
    if not results:
        return "No runs."
    seeds = sorted({result.config.seed for result in results})
    configs, made = [r.config for r in results], [r.summary["provenance"] for r in results]
    sizes = Counter((config.rounds, config.dataset) for config in configs)
    (first, count), *others = sizes.items()
    parts = [
        f"{count} run{'s' * (count > 1)} of {first[0]} rounds on {first[1]}, "
        + "".join(f"{count} of {rounds} on {dataset}, " for (rounds, dataset), count in others)
        + f"{'seed' if len(seeds) == 1 else 'seeds'} {_names(seeds)}",
        f"{_names(config.precision for config in configs)} on {_names(m['device'] for m in made)}",
        f"torch {_names(m['torch'] for m in made)}",
        f"code {_names(m['commit'][:7] for m in made)}",
    ]
    return "; ".join(parts) + "."


def _names(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def own_settings(config: ResolvedConfig) -> str:
    """The method's settings that differ from its defaults, such as `ema=0.5 score=saliency`."""
    defaults = asdict(make_settings(METHODS[config.method], {}))
    told = {k: v for k, v in sorted(config.settings.items()) if v != defaults[k]}
    return " ".join(f"{name}={value}" for name, value in told.items())


def _history(result: RunResult) -> pd.DataFrame:
    config = result.config
    named = {name: getattr(config, name) for name in NAMES} | {"settings": own_settings(config)}
    history = result.history.assign(**named, run_id=result.run_id)
    return history.query("scope == 'all' or average == 'pooled'")[COLUMNS]


def _row(result: RunResult) -> dict[str, Any]:
    config, summary = asdict(result.config), result.summary
    settings = config.pop("settings")
    data = read_json(result.directory / "config.json")
    return {
        "run_id": result.run_id,
        **config,
        "settings": json.dumps(settings),
        "test_samples": int(result.clients["test_samples"].sum()),
        **{name: summary[name] for name in MEASURED},
        "data": data["data"],
        "split": data["partition"],
        **{name: summary["provenance"][name] for name in MADE},
    }


class KeptRun(RunResult):
    """A run that was kept: configuration, accuracies and provenance; no losses, no layers."""

    row: pd.Series

    def __init__(self, row: pd.Series, history: pd.DataFrame) -> None:
        super().__init__(Path("kept") / row["run_id"])
        vars(self).update(row=row, history=history.assign(loss=float("nan"))[HISTORY])

    @cached_property
    def config(self) -> ResolvedConfig:
        """The configuration; settings that came after the run have their defaults."""
        later = added_settings(METHODS[self.row["method"]])
        names = [field.name for field in fields(ResolvedConfig) if field.name in self.row]
        known: dict[str, Any] = {
            name: None if _is_nan(self.row[name]) else self.row[name] for name in names
        }
        return ResolvedConfig(**known | {"settings": later | json.loads(self.row["settings"])})

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What was measured once, and what made it."""
        found = {name: self.row[name] for name in MEASURED}
        found["diverged"] = None if _is_nan(found["diverged"]) else found["diverged"]
        return found | {"provenance": {name: self.row[name] for name in MADE}}

    @cached_property
    def clients(self) -> pd.DataFrame:
        """The test samples of all clients together."""
        return pd.DataFrame({"test_samples": [self.row["test_samples"]]})


def kept_results(folder: Path) -> list[KeptRun]:
    """The runs that a folder keeps.

    Raises:
        UserError: a file is not there, or not as it was written.
    """
    history = read_csv(folder / FILES[0], COLUMNS)
    rows = read_csv(folder / FILES[1], ("run_id", "settings"))
    histories = dict(list(history.groupby("run_id")))
    return [KeptRun(row, histories[row["run_id"]]) for _, row in rows.iterrows()]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value
