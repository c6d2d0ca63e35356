"""How many samples a run sees, beside what its back-end is given."""

from itertools import combinations_with_replacement, product

import pytest

from fedobp_lib.config import RunConfig
from fedobp_lib.runs.store import load_data
from fedobp_lib.runs.workload import Workload, Workloads, span
from fedobp_lib.simulation import simulate


@pytest.mark.parametrize("after", ["never", "final", "always"])
@pytest.mark.parametrize(("every", "cohort"), [(2, 1), (5, 1), (5, 2), (2, 9)])
def test_the_work_of_a_run_is_what_its_back_end_is_given(after, every, cohort, monkeypatch):
    config = RunConfig(
        method="fedavg", clients=13, participation=0.3, rounds=5, local_epochs=1,
        eval_every=every, eval_after=after, eval_cohort=cohort,
    ).resolved()  # fmt: skip
    simulation = simulate(config, load_data("digits"))
    backend, seen = simulation.trainer.backend, {"fit": 0, "test": 0}
    fit, test = backend.fit, backend.test

    def counted_fit(jobs):
        seen["fit"] += sum(job.data.samples(client) for job in jobs for client in job.clients)
        return fit(jobs)

    def counted_test(questions):
        seen["test"] += sum(question.counts.sum() for question in questions)
        return test(questions)

    monkeypatch.setattr(backend, "fit", counted_fit)
    monkeypatch.setattr(backend, "test", counted_test)
    simulation.run(progress=False)
    work = Workloads(threads=1)(config)
    assert (work.train + work.tuned, work.test) == (seen["fit"], seen["test"])


def test_runs_with_other_cohorts_or_splits_have_work_of_their_own():
    kinds = {"seed": [0, 1], "alpha": [0.1, 0.5], "rounds": [3, 4]}
    work_of = Workloads(threads=2)
    configs = [
        RunConfig(**dict(zip(kinds, values, strict=True))).resolved()
        for values in product(*kinds.values())
    ]
    works = [work_of(config) for config in configs]
    assert len(set(works)) == len(configs)
    assert works == [Workloads(threads=2)(config) for config in configs]


def test_the_busiest_thread():
    assert span([3, 9, 4], 1) == span([3, 9, 4], None) == 16
    assert span([3, 9, 4], 2) == 9
    assert span([5, 5, 4, 4, 4], 2) == 13  # largest first, though 12 were possible
    assert span([], 2) == 0
    # Never below an even share nor the largest client, never above both together.
    for counts in combinations_with_replacement([1, 3, 7, 20], 5):
        for threads in (2, 3, 8):
            least = max(sum(counts) / threads, max(counts))
            assert least <= span(counts, threads) <= sum(counts) / threads + max(counts)


def test_works_add_up():
    assert Workload(1, 2, 3) + Workload(train=10, test=30) == Workload(11, 2, 33)
