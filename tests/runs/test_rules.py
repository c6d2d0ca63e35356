"""The runs of notebook 13."""

import pytest
from helpers.direct_link import tiny_config

from fedobp_lib import RunConfig
from fedobp_lib.paper.published import published_quantiles
from fedobp_lib.runs.experiments import rule_runs
from fedobp_lib.runs.normalizations import avgcnn_layout
from fedobp_lib.runs.rules import FIXED_COUNT, FIXED_Q, rule_variants, variant_of


def test_every_variant_is_run_with_every_seed_and_known_again():
    configs = rule_runs("paper", datasets=["mnist"], rounds=50, seeds=[0, 1, 2])
    names = [variant.name for variant in rule_variants("mnist")]
    assert len(set(names)) == len(names) and len(configs) == 3 * len(names)
    assert {(c.dataset, c.alpha, c.rounds) for c in configs} == {("mnist", 0.1, 50)}
    for seed in (0, 1, 2):
        assert [variant_of(c).name for c in configs if c.seed == seed] == names
    for config in configs:
        assert variant_of(config.resolved()) == variant_of(config)
    assert variant_of(RunConfig(dataset="mnist", settings={"quantile": 0.3})) is None
    assert variant_of(RunConfig(method="apfl", dataset="mnist")) is None


def test_controls_have_equal_counts():
    layout = avgcnn_layout("mnist")
    counts = {v.name: v.settings["count"] for v in rule_variants("mnist") if "count" in v.settings}
    assert counts["biases"] == counts["as_biases"] == 10
    classifier = layout.layers["classifier"]
    assert counts["as_fedper"] == classifier.stop - classifier.start == 513 * 10
    at_q = layout.parameters * (1 - FIXED_Q)
    assert counts["random_classifier"] == pytest.approx(at_q, abs=1)


def test_the_fixed_count_is_of_the_size_of_table_5s():
    """The power of ten nearest to their geometric mean."""
    product = 1.0
    for count in published_quantiles()["personalized_parameters"]:
        product *= count ** (1 / 16)
    assert FIXED_COUNT / 10**0.5 < product < FIXED_COUNT * 10**0.5


def test_of_a_data_set_that_is_not_registered_the_rest_is_run():
    of_mnist, own = ({v.name for v in rule_variants(name)} for name in ("mnist", "tiny"))
    assert of_mnist - own == {"random_classifier", "biases", "as_biases", "as_fedper"}
    assert variant_of(tiny_config("fedobp", select="knee")).name == "knee"
