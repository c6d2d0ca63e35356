import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedobp_lib.decoupling import merge, personal_count, personal_mask, threshold
from fedobp_lib.errors import UserError
from fedobp_lib.models.parameters import ParameterLayout
from fedobp_lib.paper.published import published_quantiles, table5_quantile
from fedobp_lib.scoring import fisher_score, gradient_score, normalize, obp_score

RULES = {"linear": "linear", "inverted_cdf": "inverted_cdf"}
PARAMETERS = {
    "cifar10": 878_538, "svhn": 878_538, "cifar100": 924_708, "mnist": 582_026,
    "fmnist": 582_026, "medmnistA": 582_539, "medmnistC": 582_539, "emnist": 608_702,
}  # fmt: skip

# Few distinct values, so that ties at the threshold are common.
tied_scores = arrays.arrays(np.float64, st.integers(1, 60), elements=st.integers(0, 5).map(float))
levels = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.9999, 1.0]), st.floats(0, 1))


@given(scores=tied_scores, q=levels, rule=st.sampled_from(sorted(RULES)))
def test_threshold_is_numpys_quantile(scores, q, rule):
    ours = threshold(torch.from_numpy(scores), q, rule)
    assert ours.item() == pytest.approx(np.quantile(scores, q, method=RULES[rule]), abs=1e-12)


@given(scores=tied_scores, q=levels)
def test_inverted_cdf_is_the_papers_infimum(scores, q):
    """inf {x : F(x) >= q}, searched for literally."""
    reached = [x for x in np.unique(scores) if (scores <= x).sum() >= q * len(scores)]
    assert threshold(torch.from_numpy(scores), q, "inverted_cdf").item() == min(reached)


def test_threshold_of_float32_rows_equals_torch_quantile():
    scores = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0)) ** 4
    for q in (0.0, 0.1, 0.5, 0.9, 0.999, 0.99979, 1.0):
        torch.testing.assert_close(threshold(scores, q), torch.quantile(scores, q, dim=1))


@given(scores=tied_scores, q=levels, rule=st.sampled_from(sorted(RULES)))
def test_mask_and_merge_against_a_slow_reading_of_the_paper(scores, q, rule):
    """Eq. 7 to 9, one parameter at a time; ties stay global."""
    rng = np.random.default_rng(len(scores))
    local, global_ = rng.normal(size=(2, len(scores)))
    tau = np.quantile(scores, q, method=RULES[rule])
    expected = [
        local[k] if scores[k] > tau and not np.isclose(scores[k], tau, atol=1e-12) else global_[k]
        for k in range(len(scores))
    ]
    tensor = torch.from_numpy(scores)
    ours_tau = threshold(tensor, q, rule)
    mask = personal_mask(tensor, ours_tau)
    if abs(ours_tau - tau) == 0:
        merged = merge(mask, torch.from_numpy(local), torch.from_numpy(global_))
        np.testing.assert_array_equal(merged.numpy(), expected)


@given(scores=tied_scores, rule=st.sampled_from(sorted(RULES)))
def test_extremes(scores, rule):
    tensor = torch.from_numpy(scores)
    assert not personal_mask(tensor, threshold(tensor, 1.0, rule)).any()
    above_minimum = personal_mask(tensor, threshold(tensor, 0.0, rule))
    assert torch.equal(above_minimum, tensor > tensor.min())


@given(scores=tied_scores, low=levels, high=levels)
def test_a_higher_quantile_never_personalizes_more(scores, low, high):
    low, high = sorted((low, high))
    tensor = torch.from_numpy(scores)
    fewer = personal_mask(tensor, threshold(tensor, high))
    more = personal_mask(tensor, threshold(tensor, low))
    assert not (fewer & ~more).any()


def test_merge_takes_buffers_from_the_server():
    local, global_ = torch.ones(2, 6), torch.zeros(6)
    merged = merge(torch.ones(2, 4, dtype=torch.bool), local, global_)
    assert merged.tolist() == [[1, 1, 1, 1, 0, 0]] * 2


def test_bad_quantiles_are_refused():
    for q in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="quantile"):
            threshold(torch.rand(5), q)
    with pytest.raises(UserError, match="did you mean 'linear'"):
        threshold(torch.rand(5), 0.5, "linaer")


def test_table_5_counts():
    """All cells as printed but MEDMNISTA at alpha 0.1: 59, where the paper prints 53."""
    table = published_quantiles()
    assert len(table) == 16
    for row in table.itertuples():
        size = PARAMETERS[row.dataset]
        ours = personal_count(size, row.quantile)
        odd = row.dataset == "medmnistA" and row.alpha == 0.1
        assert ours == (59 if odd else row.personalized_parameters)
        assert personal_count(size, row.quantile, "inverted_cdf") == ours - 1
        assert table5_quantile(row.dataset, row.alpha) == row.quantile
    assert table5_quantile("digits", 0.1) == 0.9995


@given(parameters=st.integers(1, 5000), q=levels)
def test_personal_count_formula(parameters, q):
    """P - 1 - floor(q (P - 1)), unless q falls on an order statistic by rounding."""
    ours = personal_count(parameters, q)
    position = q * (parameters - 1)
    assert abs(ours - (parameters - 1 - position)) < 1 + 1e-9


def test_scores_one_parameter_at_a_time():
    start, local, global_ = torch.randn(3, 2, 7, generator=torch.Generator().manual_seed(1))
    for i in range(2):
        for k in range(7):
            assert obp_score(local, global_[0])[i, k] == pytest.approx(
                (local[i, k] - global_[0, k]).item() ** 2
            )
            assert gradient_score(start, local)[i, k] == abs(start[i, k] - local[i, k])
            assert fisher_score(local)[i, k] == pytest.approx(local[i, k].item() ** 2)


def test_normalizations():
    layout = ParameterLayout(
        ("a.weight", "a.bias", "b.weight", "c.weight"),
        (torch.Size([3]), torch.Size([1]), torch.Size([2]), torch.Size([2])), 8, 8,
    )  # fmt: skip
    scores = torch.tensor([[1.0, 3, 2, 5, 10, 30, 7, 7]])
    assert torch.equal(normalize(scores, layout, "none"), scores)
    torch.testing.assert_close(normalize(scores, layout, "global"), (scores - 1) / 29)
    by_layer = torch.tensor([[0, 0.5, 0.25, 1, 0, 1, 0, 0]])
    torch.testing.assert_close(normalize(scores, layout, "layer"), by_layer)
    with pytest.raises(UserError, match="normalization"):
        normalize(scores, layout, "batch")
