"""Settings: protocols and defaults."""

from fedobp_lib import RunConfig
from fedobp_lib.data.datasets import load
from fedobp_lib.simulation import simulate

TINY = {"clients": 6, "participation": 0.5, "rounds": 4, "local_epochs": 1, "eval_every": 2}


def tiny(**changes) -> RunConfig:
    return RunConfig(**(TINY | changes))


def test_protocols_differ_as_documented():
    released, text = (RunConfig(protocol=p).resolved() for p in ("released", "text"))
    assert (released.momentum, released.test_share, released.pixels) == (0.7, 0.25, "benchmark")
    assert (text.momentum, text.test_share, text.pixels) == (0.0, 0.5, "data")
    simulation = simulate(tiny(protocol="text"), load("digits"))
    assert simulation.method.rule == "inverted_cdf"
    sizes = simulation.clients_frame()
    assert abs(sizes["train_samples"].sum() - sizes["test_samples"].sum()) <= 6


def test_quantile_defaults_to_table_5():
    images = load("digits")
    for dataset, alpha, expected in [("mnist", 0.1, 0.9998), ("digits", 0.1, 0.9995)]:
        config = tiny(dataset=dataset, alpha=alpha)
        assert simulate(config, images).method.quantile == expected
