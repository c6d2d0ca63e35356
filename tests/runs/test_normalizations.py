"""Table 8's runs: the logged quantiles, and equal counts with the classifier alone."""

import pytest

from fedobp_lib.data.registry import DATASETS
from fedobp_lib.decoupling import personal_count
from fedobp_lib.models.networks import build_model
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.paper.logged import logged_normalizations
from fedobp_lib.runs.experiments import normalization_runs
from fedobp_lib.runs.normalizations import (
    ALL_NORMALIZATIONS,
    CLASSIFIER_ONLY,
    matched_quantile,
    normalization_of,
)
from fedobp_lib.runs.presets import PAPER_DATASETS


def columns(dataset):
    spec = DATASETS[dataset]
    layout = ParameterLayout.of(build_model("avgcnn", spec.shape, spec.classes, seed=0))
    classifier = layout.layers["classifier"]
    return layout.parameters, classifier.stop - classifier.start


@pytest.mark.parametrize("dataset", ["digits", "cifar100"])
@pytest.mark.parametrize("q", [0.9, 0.99505, 0.9995, 0.99999, 1.0])
def test_the_matched_quantile_keeps_as_many(dataset, q):
    size, own = columns(dataset)
    wanted = min(personal_count(size, q), own - 1)
    assert personal_count(own, matched_quantile(dataset, q)) == wanted


def test_the_authors_matched_the_count_too():
    """On most data sets their quantile with CLS keeps about as many parameters as without."""
    quantiles = logged_normalizations().groupby(["dataset", "normalization"])["quantile"].first()
    close = 0
    for dataset in PAPER_DATASETS:
        size, own = columns(dataset)
        with_cls = personal_count(own, quantiles[dataset, CLASSIFIER_ONLY])
        without = personal_count(size, quantiles[dataset, "none"])
        close += abs(with_cls - without) <= 0.02 * without + 2
    assert close >= 5


@pytest.mark.parametrize("dataset", ["digits", "cifar100", "mnist"])
@pytest.mark.parametrize("alpha", [0.1, 0.5])
def test_every_run_is_known_by_its_name(dataset, alpha):
    configs = normalization_runs("quick", datasets=[dataset], alphas=[alpha], seeds=[0])
    names = [normalization_of(config.resolved()) for config in configs]
    assert names == [normalization_of(config) for config in configs] == list(ALL_NORMALIZATIONS)


def test_the_logged_quantiles_are_taken_where_there_are_some():
    configs = normalization_runs("paper", datasets=["cifar100"], seeds=[0])
    settings = {normalization_of(config): config.settings for config in configs}
    assert settings["none"]["quantile"] == settings["layer"]["quantile"] == 0.99505
    assert settings[CLASSIFIER_ONLY]["quantile"] == 0.91078
    assert settings["layer"]["normalization"] == "tensor"
    # Where none was logged, `none` is the run of the other experiments.
    digits = normalization_runs("quick", datasets=["digits"], seeds=[0])[0]
    assert "quantile" not in digits.settings
