"""Rules beside Table 5's quantile, on made-up runs."""

import numpy as np
import pytest
from helpers.fake_runs import fake_run
from matplotlib.figure import Figure
from scipy import stats

from fedobp_lib import UserError, figures
from fedobp_lib.paths import figures_dir, runs_dir
from fedobp_lib.results import rules
from fedobp_lib.results.claims.about_rules import RULE_CLAIMS
from fedobp_lib.results.claims.on_frames import checked_claims
from fedobp_lib.runs.rules import KEPT, rule_variants

SEEDS = (0, 1, 2)
NOISE = (0.0, 0.3, -0.2)  # of a seed: the same for all variants
OWN = (0.1, 0.0, -0.1)  # of a variant's run


def made(accuracies, **given):
    """The frame of `results_of`."""
    return rules.variant_runs(results_of(accuracies, **given))


def results_of(accuracies, datasets=("mnist",), seeds=SEEDS, tuned=91.0):
    """Runs of all variants at 90 %, but for those named; FedAvg has `tuned` after training."""
    results = []
    for dataset in datasets:
        for variant in rule_variants(dataset):
            for seed in seeds:
                value = accuracies.get(variant.name, 90.0) + NOISE[seed]
                if variant.name != "table5":
                    value += OWN[seed]
                after = tuned if variant.name == "fedavg" else 92.0
                results.append(
                    fake_run(runs_dir(), value, tuned=after + NOISE[seed], dataset=dataset,
                             shares=[{"fc1": 3.0, "classifier": 4.0}], seed=seed, rounds=1,
                             method=variant.method, settings=variant.settings)
                )  # fmt: skip
    return results


def verdicts(runs):
    return checked_claims(RULE_CLAIMS, {"rules": runs}).set_index("id")["verdict"]


def test_differences_are_paired_by_seed():
    """What a seed does to all runs cancels; the interval is that of scipy's paired test."""
    runs = made({"knee": 89.0})
    row = rules.paired(runs, "knee", "table5").iloc[0]
    assert row["difference"] == pytest.approx(-1.0) and row["seeds"] == 3
    ours, theirs = (
        runs[runs["variant"] == name].sort_values("seed")["before"] for name in ("knee", "table5")
    )
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    table = rules.rule_table(runs).set_index("variant")
    assert table.loc["knee", "low"] == pytest.approx(interval.low)
    assert table.loc["knee", "personal"] == 7 and table.index[0] == "knee"
    differences = rules.difference_table(runs).set_index(["variant", "stage"])
    assert differences.loc[("fedavg_tuned", "before"), "difference"] == pytest.approx(91.0 - 90.0)
    assert differences.loc[("knee", "after"), "difference"] == pytest.approx(0.0)


def test_of_a_single_seed_there_is_no_interval_and_no_verdict():
    runs = made({"random": 50.0}, seeds=(0,))
    assert np.isnan(rules.paired(runs, "fixed", "random")["low"]).all()
    assert set(verdicts(runs)) == {"undecided"}


@pytest.mark.parametrize(
    ("accuracies", "claim", "expected"),
    [
        ({"knee": 89.6, "held_out": 80, "count": 80, "layers": 80}, "no-tuned-quantile", "holds"),
        (
            {"knee": 89.4, "held_out": 80, "count": 80, "layers": 80},
            "no-tuned-quantile",
            "does not hold",
        ),
        ({"fixed": 89.4}, "one-quantile", "does not hold"),
        ({"fixed": 91.0}, "score-matters", "holds"),
        ({"fixed": 90.1, "random": 90.1}, "score-matters", "does not hold"),
        ({"fixed": 89.0}, "score-within-classifier", "does not hold"),
        ({"as_biases": 91.0}, "beyond-biases", "holds"),
        ({"table5": 90.7}, "beyond-last-layer", "holds"),
        ({"table5": 90.05}, "beyond-last-layer", "undecided"),
        ({"table5": 91.6}, "beyond-tuned-fedavg", "holds"),
        ({"table5": 91.0}, "beyond-tuned-fedavg", "does not hold"),
        ({"soft": 91.0}, "soft-better", "holds"),
    ],
)
def test_claims_are_decided_by_their_rules(accuracies, claim, expected):
    assert verdicts(made(accuracies))[claim] == expected


def test_a_rule_has_to_be_near_on_every_data_set():
    runs = made({"fixed": 89.9}, datasets=("mnist", "fmnist"))
    worse = (runs["dataset"] == "fmnist") & (runs["variant"] == "fixed")
    assert verdicts(runs)["one-quantile"] == "holds"
    runs.loc[worse, "before"] -= 1
    assert verdicts(runs)["one-quantile"] == "does not hold"
    assert rules.worst(runs, ["fixed"]).iloc[0]["dataset"] == "fmnist"
    runs = runs[~worse]
    assert rules.worst(runs, ["fixed"]).empty  # not run everywhere
    assert verdicts(runs)["one-quantile"] == "not run"


def test_of_data_that_table_5_does_not_have_nothing_is_said_about_tuning():
    found = verdicts(made({"fixed": 91.0}, datasets=("digits",)))
    assert found["no-tuned-quantile"] == found["one-quantile"] == "undecided"
    assert found["score-matters"] == "holds"


def test_the_advice_follows_its_rule():
    """No number before one; near enough; and a word where FedAvg after training is as good."""
    advice = rules.advice(made({"knee": 89.8, "held_out": 89.7, "count": 93.0, "fedavg": 60.0}))
    assert advice.startswith('We would use "knee of the scores" (no number): -0.20 points')
    assert "FedAvg with fine-tuning is not shown to be worse" in advice
    advice = rules.advice(made({"knee": 89.0, "held_out": 89.0, "count": 93.0}))
    assert '"100 parameters" (one number): +3.00' in advice and "FedAvg" not in advice
    behind = dict.fromkeys(("fixed", "soft", "layers", "count", "knee", "held_out"), 80.0)
    assert rules.advice(made(behind)).startswith("We would tune the quantile")


def test_figures_are_drawn_of_what_is_saved():
    runs = made({"knee": 80.0}, datasets=("mnist", "fmnist"))
    table, differences = rules.rule_table(runs), rules.difference_table(runs)
    for name, frame, plot in (
        ("rules", table, figures.plot_rules), ("differences", differences, figures.plot_differences)
    ):  # fmt: skip
        figure = plot(frame)
        assert isinstance(figure, Figure) and len(figure.axes) == 2
        figures.save(figure, frame, name, "smoke")
        assert (figures_dir("smoke") / f"{name}.png").stat().st_size > 10_000
    texts = {text.get_text() for axis in figures.plot_rules(table).axes for text in axis.texts}
    assert set(table["title"]) | {"FedAvg after fine-tuning"} == texts


def test_of_kept_runs_only_seeds_with_every_variant_count(monkeypatch):
    """A mean over other seeds than its neighbour's would not be comparable."""
    results = results_of({"knee": 80.0}, seeds=(0, 1))
    for count, seeds in ((len(results), {0, 1}), (len(results) - 1, {0}), (1, set())):
        monkeypatch.setattr(rules, "kept_results", lambda folder, count=count: results[:count])
        runs = rules.variant_runs(rules.runs_on_mnist())
        assert set(runs["seed"]) == seeds
        assert len(runs) == len(seeds) * len(rule_variants("mnist"))


def test_kept_runs_are_those_of_the_project_else_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rules.runs_on_mnist()
    (tmp_path / "fedobp_lib").mkdir()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "figures" / KEPT).mkdir(parents=True)
    with pytest.raises(UserError, match=r"history\.csv"):
        rules.runs_on_mnist()
