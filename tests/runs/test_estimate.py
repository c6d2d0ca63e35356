"""How long runs will take."""

from dataclasses import replace

import pytest
import torch
from helpers.fake_runs import fake_run

from fedobp_lib.config import RunConfig
from fedobp_lib.paths import runs_dir
from fedobp_lib.runs import estimate
from fedobp_lib.runs.provenance import provenance


def finished(method, seconds, device="this", **fields):
    made = provenance(torch.device("cpu"))
    if device != "this":
        made["device"] = device
    told = {"seconds_total": seconds, "provenance": made}
    fake_run(runs_dir(), summary=told, method=method, **{"rounds": 4, **fields})


def test_an_estimate_is_the_mean_time_of_finished_rounds(monkeypatch):
    monkeypatch.setattr(estimate, "measure_round", lambda *a: pytest.fail("measured"))
    finished("fedobp", 8.0)  # 2 s a round
    finished("fedobp", 12.0, alpha=0.5)  # 3 s a round
    finished("fedobp", 4000.0, device="another machine")
    finished("fedobp", 4000.0, clients=40)  # another size
    finished("majority-class", 0.04)
    finished("fedper", 14.0)  # 3.5 s a round
    wanted = [RunConfig(method=m, rounds=10) for m in ("fedobp", "majority-class", "fedavg")]
    frame = estimate.forecast(wanted, "cpu")
    # FedAvg by the three runs of methods that train: (2 + 3 + 3.5) / 3.
    assert frame["seconds"].tolist() == pytest.approx([25.0, 0.1, 10 * 8.5 / 3])
    assert frame["basis"].tolist() == [estimate.SAME_METHOD] * 2 + [estimate.OTHER_METHODS]
    text = estimate.forecast_text(frame)
    assert "3 runs, one after another: about 53 s" in text


def test_a_measured_round_is_extended_to_the_run():
    measured = estimate.Round(train=1.0, test=0.25)
    config = RunConfig(clients=10, participation=0.2, rounds=6, eval_every=3).resolved()
    # Six rounds of training and two tests; all clients are five cohorts: tested twice, and
    # once more after fine-tuning.
    assert measured.seconds(config) == 6 * (1 + 0.5) + 5 * (2 * 0.25 + 1 + 0.25)
    never = replace(config, eval_after="never")
    assert measured.seconds(never) == 6 * 1.5 + 5 * 0.5


def test_methods_are_measured_while_there_is_time(monkeypatch):
    asked = []

    def measure(config, device):
        asked.append(config.method)
        return estimate.Round({"fedavg": 1.0, "fedobp": 2.0}.get(config.method, 9.0), 0.0)

    monkeypatch.setattr(estimate, "measure_round", measure)
    methods = ["majority-class", "fedavg", "fedobp", "fedavg", "fedper"]
    configs = [RunConfig(method=m, eval_after="never") for m in methods]
    assert (estimate.forecast(configs, "cpu")["basis"] == estimate.MEASURED).all()
    assert asked == ["majority-class", "fedavg", "fedobp", "fedper"]
    asked.clear()
    monkeypatch.setattr(estimate, "MEASURE_SECONDS", -1.0)
    frame = estimate.forecast(configs[1:], "cpu")
    assert asked == ["fedavg"] and frame["seconds"].tolist() == [40.0] * 4
    others = [estimate.MEASURED_OTHER if m != "fedavg" else estimate.MEASURED for m in methods[1:]]
    assert frame["basis"].tolist() == others


def test_a_method_that_is_not_measured_is_judged_by_the_mean_of_those_that_are(monkeypatch):
    seconds = {"majority-class": 0.01, "fedavg": 1.0, "fedobp": 2.0}
    asked = []

    def measure(config, device):
        asked.append(config.method)
        return estimate.Round(seconds[config.method], 0.0)

    monkeypatch.setattr(estimate, "measure_round", measure)
    # Each measurement takes a third of the time that there is for all.
    monkeypatch.setattr(
        estimate.time, "monotonic", lambda: len(asked) * estimate.MEASURE_SECONDS / 3
    )
    configs = [RunConfig(method=m, eval_after="never") for m in (*seconds, "fedper")]
    frame = estimate.forecast(configs, "cpu")
    assert frame["seconds"].tolist() == pytest.approx([0.4, 40, 80, 60])
    assert frame["basis"].tolist() == [estimate.MEASURED] * 3 + [estimate.MEASURED_OTHER]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.4, "12 s"), (600, "10 min"), (9000, "2.5 h"), (864000, "10.0 days")],
)
def test_durations(seconds, text):
    assert estimate.duration(seconds) == text
