"""Numbers of parameters, against numpy's quantile, torchvision's network and brute force."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_decoupling import PARAMETERS
from torchvision.models import resnet18

from fedobp_lib.config import RunConfig
from fedobp_lib.errors import UserError
from fedobp_lib.paper.published import DEFAULT_QUANTILE, published_resnet18
from fedobp_lib.results import counts


def test_the_papers_data_sets_give_the_known_numbers_of_parameters():
    table = counts.parameter_counts()
    assert dict(zip(table["dataset"], table["parameters"], strict=True)) == PARAMETERS
    layers = table[["conv1", "conv2", "fc1", "classifier"]]
    assert (layers.sum(axis=1) == table["parameters"]).all()
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        counts.parameter_counts(["minst"])


def test_table_5_by_numpys_quantiles_of_random_scores():
    """15 of 16 cells are as printed; MEDMNISTA at 0.1 is 59, not 53. inverted_cdf: one fewer."""
    table = counts.table_5()
    assert len(table) == 16
    rng = np.random.default_rng(1)
    scores = {size: rng.random(size) for size in set(PARAMETERS.values())}
    for row in table.itertuples():
        values = scores[PARAMETERS[row.dataset]]
        for rule in ("linear", "inverted_cdf"):
            tau = np.quantile(values, row.quantile, method=rule)
            assert getattr(row, rule) == (values > tau).sum()
        assert row.closed_form == row.linear == row.inverted_cdf + 1
    odd = table[~table["agrees"]]
    assert odd[["dataset", "alpha", "linear", "published"]].values.tolist() == [
        ["medmnistA", 0.1, 59, 53]
    ]
    assert odd["remark"].str.len().gt(0).all() and (table["remark"] == "").sum() == 15
    part = counts.table_5(["svhn", "mnist"], [0.5])
    assert part[["dataset", "alpha"]].values.tolist() == [["svhn", 0.5], ["mnist", 0.5]]


def test_counts_in_the_text():
    """What the paper calls CIFAR100's tenth is the tenth of CIFAR10's parameters."""
    table = counts.counts_in_the_text().set_index(["dataset", "score"])
    tenth = table.loc["cifar100", "gradient"]
    assert tenth["published"] == PARAMETERS["cifar10"] // 10
    assert tenth["linear"] == PARAMETERS["cifar100"] // 10 + 1
    assert not tenth["agrees"] and "cifar10's" in tenth["remark"]
    assert table.loc["cifar10", "obp"]["remark"] == "as inverted_cdf gives it"
    assert table.loc["cifar100", "obp"]["agrees"]


@given(parameters=st.integers(1, 80), q=st.integers(0, 1000).map(lambda n: n / 1000))
def test_closed_forms_by_brute_force(parameters, q):
    """Scores 0 to P - 1, each compared with the quantile as its definition says."""
    exact = Fraction(str(q))
    above = sum(score > exact * (parameters - 1) for score in range(parameters))
    assert counts.closed_form(parameters, q) == above
    reached = [x for x in range(parameters) if Fraction(x + 1, parameters) >= exact]
    above = sum(score > min(reached) for score in range(parameters))
    assert counts.closed_form(parameters, q, "inverted_cdf") == above
    with pytest.raises(UserError, match="quantile rule"):
        counts.closed_form(parameters, q, "nearest")


def test_table_3_as_printed():
    """conv2 lacks its 32 input channels' factor, fc1 is that of 28x28 images alone."""
    grey = counts.printed_layers("mnist").set_index("layer")
    differ = grey["printed"] != grey["built"]
    assert list(differ.index[differ]) == ["conv2", "all"]
    assert grey.loc["conv2", "built"] - 64 == 64 * (grey.loc["conv2", "printed"] - 64)
    colour = counts.printed_layers("cifar100").set_index("layer")
    differ = colour["printed"] != colour["built"]
    assert list(differ.index[differ]) == ["conv2", "fc1", "all"]


def test_table_4_and_torchvisions_own_network():
    net = resnet18(num_classes=10)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    table = counts.printed_layers("cifar10", "resnet18").set_index("layer")
    sizes["classifier"] = sizes.pop("fc")
    built = table["built"].drop("all").dropna()
    assert built.to_dict() == {name: size for name, size in sizes.items() if size}
    assert table.loc["all", "built"] == sum(p.numel() for p in net.parameters())
    convolutions = sum(p.ndim == 4 for p in net.parameters())
    assert table.loc["all", "built_convolutions"] == convolutions
    assert table.loc["all", "printed_convolutions"] < convolutions
    assert pd.isna(table.loc["fc1", "built"]) and pd.isna(table.loc["bn1", "printed"])
    assert list(table.index)[-4:] == ["layer4", "fc1", "classifier", "all"]
    made = counts.tensors("cifar10", "resnet18")
    running = sum(b.numel() for b in net.buffers() if b.is_floating_point())
    assert made.loc[~made["trained"], "count"].sum() == running


def test_personalized_share_stands_beside_the_printed_one():
    def run(method, dataset, kept, q=0.9):
        config = RunConfig(method=method, dataset=dataset, settings={"quantile": q})
        return SimpleNamespace(
            config=config, summary={"parameters": 2000, "personalized_parameters": kept}
        )

    runs = [
        run("fedobp", "mnist", 3.0),
        run("fedavg", "mnist", 0.0),
        run("fedobp", "digits", 1.0, None),
    ]
    table = counts.personalized_share(runs).set_index("dataset")
    printed = published_resnet18().set_index(["dataset", "method"])["personalized_percent"]
    assert table.loc["mnist", "percent"] == pytest.approx(0.15)
    assert table.loc["mnist", "published_percent"] == printed["mnist", "fedobp"]
    assert table["quantile"].tolist() == [0.9, DEFAULT_QUANTILE]
    assert pd.isna(table.loc["digits", "published_percent"]) and len(table) == 2
