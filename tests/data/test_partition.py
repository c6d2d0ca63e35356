import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedobp_lib.data.partition import ARRAYS, Partition, dirichlet_partition
from fedobp_lib.errors import UserError


@given(
    seed=st.integers(0, 10_000),
    clients=st.integers(1, 12),
    classes=st.integers(1, 8),
    alpha=st.sampled_from([0.05, 0.1, 0.5, 5.0, 1000.0]),
    share=st.sampled_from([0.1, 0.25, 0.5]),
)
def test_every_sample_has_one_place(seed, clients, classes, alpha, share):
    labels = np.random.default_rng(seed).integers(0, classes, 400)
    try:
        split = dirichlet_partition(labels, clients, alpha, seed, share, min_samples=4)
    except UserError as error:
        assume("no Dirichlet" not in str(error))
        raise
    both = np.concatenate([split.train_indices, split.test_indices])
    assert sorted(both) == list(range(400))
    for client in range(clients):
        train, test = len(split.train(client)), len(split.test(client))
        assert train + test >= 4 and train >= 1 and test >= 1
        assert abs(test - share * (train + test)) <= 1
    assert split.check(400) is split


def test_same_seed_same_split_other_seed_other_split():
    labels = np.arange(1000) % 10
    first, again, other = (dirichlet_partition(labels, 10, 0.3, s) for s in (3, 3, 4))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_small_alpha_is_more_heterogeneous():
    labels = np.arange(5000) % 10
    largest = [
        dirichlet_partition(labels, 20, alpha, 0).statistics(labels)["largest_class_percent"].mean()
        for alpha in (0.1, 0.5, 100.0)
    ]
    assert largest[0] > largest[1] + 10 > largest[2] + 20


def test_class_shares_follow_the_dirichlet_distribution():
    """Share of one client: mean 1/n and variance (n - 1) / (n^2 (n alpha + 1))."""
    labels = np.zeros(20_000, dtype=int)
    n, alpha = 4, 0.5
    shares = (
        np.stack(
            [
                dirichlet_partition(labels, n, alpha, seed, min_samples=2).class_counts(labels, 1)[
                    :, 0
                ]
                for seed in range(400)
            ]
        )
        / 15_000
    )
    assert shares.mean() == pytest.approx(1 / n, abs=1e-3)
    assert shares.var() == pytest.approx((n - 1) / (n**2 * (n * alpha + 1)), rel=0.15)


def test_largest_class_alone_scores_what_the_paper_prints_for_organs():
    """66 % under Dirichlet(0.1) and 40 % under 0.5 on 11 classes: MEDMNISTA's columns."""
    sizes = [1956, 1390, 1357, 1474, 3963, 7000, 3817, 6164, 3919, 3929, 2900]  # of this kind
    labels = np.repeat(np.arange(11), sizes)
    for alpha, expected in ((0.1, 66), (0.5, 40)):
        split = dirichlet_partition(labels, 100, alpha, 0)
        counts = split.class_counts(labels, 11) + split.class_counts(labels, 11, "test")
        assert abs(100 * counts.max(1).sum() / counts.sum() - expected) < 5


def test_save_and_load(tmp_path):
    split = dirichlet_partition(np.arange(300) % 5, 6, 0.5, 1)
    split.save(tmp_path / "split.npz")
    assert Partition.load(tmp_path / "split.npz").fingerprint == split.fingerprint
    assert [p.name for p in tmp_path.glob("*split*")] == ["split.npz"]


def test_truncated_file_is_one_clear_line(tmp_path):
    path = tmp_path / "split.npz"
    dirichlet_partition(np.arange(300) % 5, 6, 0.5, 1).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="cannot read") as caught:
        Partition.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_indices": lambda a: a + 1000}, "made for another data set"),
        ({"train_indices": lambda a: a - 3}, r"names sample -\d; samples are counted from 0"),
        ({"test_indices": lambda a: a * 0}, "more than once"),
        ({"train_offsets": lambda a: a[:-1]}, "do not span"),
        ({"test_offsets": lambda a: np.insert(a, 1, 0)}, "client 0 has no test samples"),
    ],
)
def test_partition_that_does_not_fit(change, message):
    split = dirichlet_partition(np.arange(300) % 5, 6, 0.5, 1)
    arrays = {name: getattr(split, name) for name in ARRAYS}
    for name, edit in change.items():
        arrays[name] = edit(arrays[name])
    with pytest.raises(UserError, match=message):
        Partition(**arrays).check(300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": float("inf")}, "finite"),
        ({"clients": 100}, "fewer clients"),
        ({"test_share": 1.0}, "test_share"),
        ({"alpha": 1e-3, "clients": 25, "min_samples": 10}, "no Dirichlet"),
    ],
)
def test_impossible_partitions(arguments, message, monkeypatch):
    monkeypatch.setattr("fedobp_lib.data.partition.MAX_DRAWS", 20)
    values = {"labels": np.arange(300) % 3, "clients": 5, "alpha": 0.5, "seed": 0} | arguments
    with pytest.raises(UserError, match=message):
        dirichlet_partition(**values)
