"""Settings: protocols and defaults."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedobp_lib import Method, RunConfig, UserError, grid
from fedobp_lib.data.datasets import load
from fedobp_lib.methods import METHODS, make_settings
from fedobp_lib.runs.store import load_data, run_id
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


def named(**changes) -> str:
    return run_id(RunConfig(**changes).resolved(), load_data("digits"))


# Ids of well typed configurations, from before values were read as their declared types.
KNOWN = [
    ("05b2704b919e", {}),
    ("40daf0f5ffa0", {"method": "fedavg", "alpha": 1.0, "seed": 3}),
    ("35013ec50c4c", {"protocol": "text", "momentum": 0.0, "participation": 1.0, "lr": 1.0}),
    ("22fc201657d1", {"settings": {"quantile": 0.999, "score": "fisher"}, "rounds": 12}),
    ("8026fea9be57", {"method": "floco", "settings": {"endpoints": 10, "rho": 0.1, "tau": 11}}),
    ("b3f20eecdaa4", {"settings": {"quantile": "0.5", "classifier_only": "true"}}),
    ("65db089c2700", {"method": "apfl", "model": "resnet18", "eval_after": "never"}),
]


@pytest.mark.parametrize(("name", "changes"), KNOWN)
def test_runs_keep_their_ids(name, changes):
    assert named(**changes) == name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"alpha": 1.0}, {"alpha": 1}),
        ({"lr": 1.0}, {"lr": np.int64(1)}),
        ({"lr": 0.5}, {"lr": np.float32(0.5)}),
        ({"momentum": 0.0}, {"momentum": 0}),
        ({"momentum": 0.0}, {"momentum": -0.0}),
        ({"participation": 1.0}, {"participation": 1}),
        ({"seed": 1}, {"seed": np.uint8(1)}),
        ({"rounds": 2}, {"rounds": "2"}),
        ({"rounds": 2}, {"rounds": 2.0}),
        ({"rounds": 2}, {"rounds": np.array(2)}),
        ({"pretrained": False}, {"pretrained": 0}),
        ({"settings": {"quantile": 1.0}}, {"settings": {"quantile": 1}}),
        ({"settings": {"quantile": 0.5}}, {"settings": {"quantile": np.float64(0.5)}}),
        ({"settings": {"ema": 0.0}}, {"settings": {"ema": 0}}),
        ({"settings": {"buffers": True}}, {"settings": {"buffers": np.True_}}),
    ],
)
def test_one_configuration_has_one_id(one, other):
    assert named(**one) == named(**other)


@given(st.integers(1, 10**6), st.sampled_from([int, float, str, np.int64, np.float64, np.array]))
def test_a_whole_number_is_read_from_whatever_holds_it(number, kind):
    value = kind(number) if kind is not str else f" {number}"
    assert RunConfig(rounds=value) == RunConfig(rounds=number)
    assert type(RunConfig(rounds=value).rounds) is int
    if kind is not float:
        lr = RunConfig(lr=value).lr
        assert lr == number and type(lr) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 1.5}, "rounds must be of type int | None, got 1.5"),
        ({"rounds": "abc"}, "rounds must be of type int | None, got 'abc'"),
        ({"seed": True}, "seed must be of type int, got True"),
        ({"lr": True}, "lr must be of type float, got True"),
        ({"alpha": None}, "alpha must be of type float, got None"),
        ({"alpha": 10**400}, "alpha must be of type float"),
        ({"clients": float("nan")}, "clients must be of type int"),
        ({"seed": [0, 1]}, "seed must be of type int"),
        ({"seed": np.arange(2)}, "seed must be of type int"),
        ({"method": 3}, "method must be of type str, got 3"),
        ({"pretrained": "perhaps"}, "pretrained must be of type bool"),
        ({"settings": ["quantile"]}, "settings must be given by name"),
        ({"settings": {"quantile": True}}, "setting 'quantile' must be of type float | None"),
        ({"settings": {"score": 3}}, "setting 'score' must be of type str, got 3"),
        ({"method": "fedrep", "settings": {"body_epochs": 1.5}}, "must be of type int, got 1.5"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(changes, message):
    with pytest.raises(UserError) as caught:
        RunConfig(**changes).resolved()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_settings_of_a_method_from_a_notebook_cell_are_typed_too():
    """Its annotations are types there, not text."""

    class Mine(Method):
        @dataclass(frozen=True)
        class Settings:
            weight: float = 1.0
            steps: int | None = None

    Mine.Settings.__annotations__ = {"weight": float, "steps": int | None}
    settings = make_settings(Mine, {"weight": "2", "steps": 3.0})
    assert (type(settings.weight), type(settings.steps)) == (float, int)


def test_defaults_have_their_declared_types():
    """Else a value given and the same value left out would be two configurations."""
    for method in METHODS.values():
        default = vars(method.Settings())
        read = vars(make_settings(method, default))
        assert {n: repr(v) for n, v in read.items()} == {n: repr(v) for n, v in default.items()}


def test_a_grid_takes_lists_arrays_and_text():
    wanted = grid("smoke", methods=["fedavg"], seeds=[0, 1], alphas=[1.0], rounds=2)
    for seeds in (np.arange(2), pd.Series([0, 1]), (0, 1), range(2), "[0, 1]", ["0", 1.0]):
        for alphas in (1, "1", np.float64(1), np.array([1]), np.array(1)):
            made = grid("smoke", methods="fedavg", seeds=seeds, alphas=alphas, rounds="2")
            assert made == wanted
            assert [repr(c) for c in made] == [repr(c) for c in wanted]
    for given_values, message in [
        ({"seeds": "0-3"}, "each of seeds must be of type int, got '0-3'"),
        ({"seeds": "[0, 1"}, "seeds: not a list"),
        ({"seeds": [True]}, "each of seeds must be of type int"),
        ({"alphas": "low"}, "each of alphas must be of type float"),
        ({"methods": [1]}, "each of methods must be of type str"),
        ({"rounds": 2.5}, "rounds must be of type int"),
        ({"rounds": "abc"}, "rounds must be of type int"),
        ({"preset": ["quick"]}, "preset must be of type str"),
    ]:
        with pytest.raises(UserError, match=message.replace("[", r"\[")):
            grid(**given_values)


def test_what_a_grid_names_twice_is_there_once():
    made = grid("smoke", methods=["fedavg", "fedavg"], seeds=[0, "0", 0.0], alphas=[1, 1.0],
                datasets=["digits", "digits"])  # fmt: skip
    assert len(made) == 1
