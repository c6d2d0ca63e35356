"""How long runs will take."""

import json

import pytest
import torch
from helpers.fake_runs import fake_run

from fedobp_lib.config import RunConfig
from fedobp_lib.paths import runs_dir
from fedobp_lib.runs import estimate
from fedobp_lib.runs.estimate import Rate
from fedobp_lib.runs.provenance import provenance
from fedobp_lib.runs.workload import Workloads, span
from fedobp_lib.simulation import Simulation
from fedobp_lib.training.trainer import Trainer

WORK = Workloads(torch.get_num_threads())


def finished(method, rate, device="this", **fields):
    """A finished run in which samples cost so much."""
    made = provenance(torch.device("cpu"))
    if device != "this":
        made["device"] = device
    config = RunConfig(method=method, **{"rounds": 4, **fields}).resolved()
    work = WORK(config)
    told = {
        "seconds_per_round": rate.train * work.train / config.rounds,
        "seconds_evaluation": rate.train * work.tuned + rate.test * work.test,
        "provenance": made,
    }
    fake_run(runs_dir(), summary=told, method=method, **{"rounds": 4, **fields})


def test_an_estimate_is_made_of_what_samples_cost_in_finished_runs(monkeypatch):
    monkeypatch.setattr(estimate, "measure", lambda *a: pytest.fail("measured"))
    finished("fedobp", Rate(2e-3, 1e-4))
    finished("fedobp", Rate(4e-3, 3e-4), alpha=0.5, rounds=2)
    finished("fedobp", Rate(1.0, 1.0), device="another machine")
    finished("fedobp", Rate(1.0, 1.0), clients=40)  # another size
    finished("majority-class", Rate(1e-6, 1e-6))
    finished("fedper", Rate(9e-3, 2e-4))
    wanted = [RunConfig(method=m, rounds=10) for m in ("fedobp", "majority-class", "fedavg")]
    frame = estimate.forecast(wanted, "cpu")
    work = WORK(wanted[0].resolved())
    # FedAvg by the three runs of methods that train.
    rates = [Rate(3e-3, 2e-4), Rate(1e-6, 1e-6), Rate(5e-3, 2e-4)]
    assert frame["seconds"].tolist() == pytest.approx([rate.seconds(work) for rate in rates])
    assert frame["basis"].tolist() == [estimate.SAME_METHOD] * 2 + [estimate.OTHER_METHODS]
    assert "3 runs, one after another: about" in estimate.forecast_text(frame)


def test_two_finished_rounds_tell_how_long_many_take():
    """With clients of very different sizes, and a last test that takes longer than the rounds."""
    rate = Rate(1e-3, 5e-4)
    finished("fedobp", rate, rounds=2)
    long = RunConfig(method="fedobp", rounds=300, eval_after="never")
    frame = estimate.forecast([long], "cpu")
    assert frame["seconds"].item() == pytest.approx(rate.seconds(WORK(long.resolved())))


def test_fine_tuning_tells_what_training_costs_after_dear_first_rounds():
    config = RunConfig(method="fedobp", rounds=2).resolved()
    work = WORK(config)
    assert work.tuned > 2 * work.train
    told = {
        "seconds_per_round": 6e-3 * work.train / 2,
        "seconds_tuning": 2e-3 * work.tuned,
        "seconds_evaluation": 2e-3 * work.tuned + 1e-4 * work.test,
        "provenance": provenance(torch.device("cpu")),
    }
    fake_run(runs_dir(), summary=told, method="fedobp", rounds=2)
    ((rate,),) = (m.values() for m in estimate.finished_rates(torch.device("cpu"), WORK).values())
    assert rate[0].test == pytest.approx(1e-4)
    assert 2e-3 < rate[0].train < 3.4e-3
    # All of the run's own time is in it.
    assert rate[0].seconds(work) == pytest.approx(
        2 * told["seconds_per_round"] + told["seconds_evaluation"]
    )


def test_diverged_runs_say_nothing():
    finished("fedobp", Rate(1e-3, 1e-4))
    made = {"provenance": provenance(torch.device("cpu")), "seconds_per_round": 99.0}
    stopped = {"diverged": {"round": 1, "client": 0, "what": "nan"}, "seconds_evaluation": 0.0}
    fake_run(runs_dir(), summary=made | stopped, method="fedobp", rounds=9)
    known = estimate.finished_rates(torch.device("cpu"), WORK)
    assert [len(methods["fedobp"]) for methods in known.values()] == [1]


def test_runs_that_are_not_understood_are_passed_over():
    """Of a data set that is not here any more, and of a version with other fields."""
    finished("fedobp", Rate(1e-3, 1e-4))
    for change in ({"dataset": "own"}, {"later_field": 1}):
        before = {path.parent for path in runs_dir().glob("*/config.json")}
        finished("fedavg", Rate(1e-3, 1e-4))
        newest = {path.parent for path in runs_dir().glob("*/config.json")} - before
        (path,) = (folder / "config.json" for folder in newest)
        path.write_text(json.dumps({"config": json.loads(path.read_text())["config"] | change}))
    known = estimate.finished_rates(torch.device("cpu"), WORK)
    assert [list(methods) for methods in known.values()] == [["fedobp"]]


def test_a_measurement_tells_the_work_of_epochs_from_that_of_rounds(monkeypatch):
    """On a clock that only training moves, for each sample by three and by one more an epoch."""
    clock, fit = [0.0], Trainer.fit
    monkeypatch.setattr(Simulation, "_clock", lambda self: clock[0])

    def timed(self, task, clients, *arguments, **changes):
        clock[0] += span(map(self.data.samples, clients), WORK.threads) * (3 + self.settings.epochs)
        return fit(self, task, clients, *arguments, **changes)

    monkeypatch.setattr(Trainer, "fit", timed)
    for epochs in (1, 7):
        config = RunConfig(method="fedavg", local_epochs=epochs).resolved()
        assert estimate.measure(config, torch.device("cpu")) == Rate(3 + epochs, 0.0)


def test_methods_are_measured_while_there_is_time(monkeypatch):
    asked = []

    def measure(config, device):
        asked.append(config.method)
        return Rate({"fedavg": 1.0, "fedobp": 2.0}.get(config.method, 9.0), 0.0)

    monkeypatch.setattr(estimate, "measure", measure)
    methods = ["majority-class", "fedavg", "fedobp", "fedavg", "fedper"]
    configs = [RunConfig(method=m, eval_after="never") for m in methods]
    assert (estimate.forecast(configs, "cpu")["basis"] == estimate.MEASURED).all()
    assert asked == ["majority-class", "fedavg", "fedobp", "fedper"]
    asked.clear()
    monkeypatch.setattr(estimate, "MEASURE_SECONDS", -1.0)
    frame = estimate.forecast(configs[1:], "cpu")
    assert asked == ["fedavg"] and frame["seconds"].nunique() == 1
    others = [estimate.MEASURED_OTHER if m != "fedavg" else estimate.MEASURED for m in methods[1:]]
    assert frame["basis"].tolist() == others


def test_a_method_that_is_not_measured_is_judged_by_the_mean_of_those_that_are(monkeypatch):
    seconds = {"majority-class": 0.01, "fedavg": 1.0, "fedobp": 2.0}
    asked = []

    def measure(config, device):
        asked.append(config.method)
        return Rate(seconds[config.method], 0.0)

    monkeypatch.setattr(estimate, "measure", measure)
    # Each measurement takes a third of the time that there is for all.
    monkeypatch.setattr(
        estimate.time, "monotonic", lambda: len(asked) * estimate.MEASURE_SECONDS / 3
    )
    configs = [RunConfig(method=m, eval_after="never") for m in (*seconds, "fedper")]
    frame = estimate.forecast(configs, "cpu")
    work = WORK(configs[0].resolved()).train
    assert (frame["seconds"] / work).tolist() == pytest.approx([0.01, 1, 2, 1.5])
    assert frame["basis"].tolist() == [estimate.MEASURED] * 3 + [estimate.MEASURED_OTHER]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.4, "12 s"), (600, "10 min"), (9000, "2.5 h"), (864000, "10.0 days")],
)
def test_durations(seconds, text):
    assert estimate.duration(seconds) == text
