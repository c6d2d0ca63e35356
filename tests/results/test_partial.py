"""What partial personalization bears: the overpersonalized regime, frames, rules and figures."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.fake_runs import fake_run
from matplotlib.figure import Figure

from fedobp_lib import RunConfig, UserError, figures
from fedobp_lib.paths import runs_dir
from fedobp_lib.results import partial
from fedobp_lib.results.claims.about_partial import PARTIAL_CLAIMS
from fedobp_lib.results.claims.on_frames import checked_claims
from fedobp_lib.runs.partial_personalization import partial_questions, partial_runs
from fedobp_lib.simulation import simulate


@pytest.fixture
def splits():
    """Made up: three clients, two rounds; the classifier fits, and nothing else does."""
    rows = [
        [split, number, client, 1e-4 if number == 2 and split == "classifier" else 1.0, 50.0]
        for split in partial.SPLITS
        for number in (1, 2)
        for client in range(3)
    ]
    return pd.DataFrame(rows, columns=["split", "round", "client", "loss", "accuracy"])


def test_the_right_split_fits_every_client_and_too_small_a_local_part_does_not():
    """The overpersonalized regime: shared parameters, one classifier each, no loss left."""
    splits = partial.split_losses(9, partial.permuted_digits(3, train=30, test=30))
    last = splits[splits["round"] == 9].groupby("split")["loss"]
    assert last.size().eq(3).all()
    assert last.max()["classifier"] < 1e-3
    # One image, as many names as clients: no model that is the same for all can know them.
    for split in ("its bias alone", "nothing (FedAvg)"):
        assert last.min()[split] > 0.1
    assert last.max()["classifier"] < last.min()["classifier, rest as at first"]


def test_the_control_leaves_the_body_alone():
    data, partition = partial.permuted_digits(3, train=30, test=30)
    method, settings = partial.SPLITS["classifier, rest as at first"]
    config = RunConfig(method=method, settings=settings, rounds=2, **partial.PERMUTED)
    simulation = simulate(config, data, partition=partition)
    body = simulation.method.shared
    simulation.run(progress=False)
    initial = simulation.method.federation.initial
    assert torch.equal(simulation.method.global_params[body], initial[body])


def test_clients_have_the_same_images_by_other_names():
    data, partition = partial.permuted_digits(3, train=30, test=20)
    partition.check(len(data))
    for part in (partition.train, partition.test):
        images = [data.images[part(client)] for client in range(3)]
        assert all(np.array_equal(images[0], other) for other in images)
        first, *others = (data.labels[part(client)] for client in range(3))
        for labels in others:
            assert (labels != first).any()
            names = set(zip(first.tolist(), labels.tolist(), strict=True))
            assert len(names) == len(set(first.tolist())) == len(set(labels.tolist()))


@pytest.mark.parametrize("preset", ["smoke", "quick", "paper"])
def test_runs_differ_from_their_control_in_one_thing(preset):
    questions = partial_questions(preset)
    assert len(partial_runs(preset)) == sum(map(len, questions.values()))
    local = [run for run in questions["local_steps"] if run.seed == 0 and run.method == "ffgg"]
    local = [run for run in local if run.dataset == local[0].dataset]
    base = next(run.rounds for run in local if run.local_epochs == 5)
    # Of 20 epochs as much as of 1 and 5; the least is one round. Where time is short, that alone.
    equal = {run.local_epochs: run.rounds for run in local if run.local_epochs == 5}
    equal |= {run.local_epochs: run.rounds for run in local if run.rounds != base}
    assert equal[1] == 5 * base and equal[20] == max(1, base // 4)
    as_many_rounds = {run.local_epochs for run in local if run.rounds == base}
    assert as_many_rounds == ({1, 5, 20} if preset == "paper" else {5})
    attacked = {run.method for run in questions["byzantine"]}
    assert attacked == {"ffgg", "fedavg"} | ({"fedper"} if preset == "paper" else set())
    for question, field in (("delays", "delays"), ("byzantine", "byzantine")):
        values = {getattr(run, field) for run in questions[question]}
        assert len(values) > 1 and {0, "none"} & values
    assert partial_questions(preset, methods=["fedavg"])["byzantine"]
    assert partial_questions(preset, methods=["fedobp"])["byzantine"] == []
    with pytest.raises(UserError, match="did you mean 'ffgg'"):
        partial_questions(preset, methods=["ffg"])


def finished(question, accuracy):
    """Made-up runs of a question at `smoke`."""
    return made_up(partial_questions("smoke")[question], accuracy)


def made_up(configs, accuracy):
    """Made-up runs; `accuracy` says the one of a configuration."""
    made = []
    for config in configs:
        fields = vars(config) | {"eval_every": config.rounds}
        value = accuracy(config)
        summary = {"diverged": {"round": 1, "client": 0, "what": "x"}} if value is None else None
        result = fake_run(runs_dir(), value or 0.0, summary=summary, **fields)
        # Client 0 is the attacker, where there is one; the others differ by its test samples.
        tested = pd.DataFrame({"test_samples": [10, 20, 20], "accuracy_before": value or 0.0})
        tested.loc[0, "accuracy_before"] = 0.0 if config.byzantine == "none" else np.nan
        tested.to_csv(result.directory / "clients.csv", index=False)
        made.append(result)
    return made


def borne(config):
    """FFGG bears all, FedAvg nothing."""
    hard = config.local_epochs == 20 or config.delays == 10 or config.byzantine != "none"
    if config.method != "ffgg" and hard:
        return 20.0 if config.local_epochs == 20 else None
    return 88.0 if hard else 90.0


def frames(accuracy, splits):
    return {
        "splits": splits,
        "local_steps": partial.local_steps(finished("local_steps", accuracy)),
        "delays": partial.late(finished("delays", accuracy)),
        "byzantine": partial.byzantine(finished("byzantine", accuracy)),
    }


def test_frames_say_what_stands_beside_what(splits):
    found = frames(borne, splits)
    local = found["local_steps"].set_index(["panel", "method", "value"])
    assert set(local.index.get_level_values("panel")) == {"equal local work"}
    equal = local["rounds"].unstack("value").loc[("equal local work", "ffgg")]
    assert equal.to_dict() == {1: 10, 5: 2, 20: 1}
    assert local.loc[("equal local work", "fedavg", 20), "mean"] == 20
    more = [
        replace(config, local_epochs=epochs)
        for config in partial_questions("smoke")["local_steps"]
        for epochs in (1, 20)
        if config.local_epochs == 5
    ]
    runs = finished("local_steps", borne) + made_up(more, borne)
    both = partial.local_steps(runs).set_index(["panel", "method", "value"])
    pd.testing.assert_frame_equal(both.loc[["equal local work"]], local)
    assert set(both.loc["equal rounds"].index) == {
        (method, epochs) for method in ("ffgg", "fedavg") for epochs in (1, 5, 20)
    }
    assert set(both.loc["equal rounds"]["rounds"]) == {2}
    late = found["delays"].set_index(["method", "value"])["mean"]
    assert late["ffgg"].to_dict() == {0: 90, 5: 90, 10: 88} and math.isnan(late["fedavg", 10])
    attacked = found["byzantine"]
    assert attacked.loc[attacked["attack"] == "none", "share"].eq(0).all()
    assert set(attacked["aggregator"]) == {"mean", "median", "trimmed:0.2", "clipping"}
    assert attacked.query("method == 'fedavg' and attack != 'none'")["diverged"].eq(1).all()


def all_the_same(config):
    return 90.0


def none_left(config):
    """FFGG suffers as well."""
    hard = config.local_epochs == 20 or config.delays == 10 or config.byzantine != "none"
    return 70.0 if hard else 90.0


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [(borne, "holds"), (all_the_same, "undecided"), (none_left, "does not hold")],
)
def test_verdicts_follow_the_rule(accuracy, verdict, splits):
    told = checked_claims(PARTIAL_CLAIMS, frames(accuracy, splits)).set_index("id")["verdict"]
    assert told.drop("right-split").eq(verdict).all()
    assert told["right-split"] == "holds"


def test_a_claim_without_its_control_is_not_decided(splits):
    found = frames(borne, splits[splits["split"] == "classifier"])
    for name in ("local_steps", "delays", "byzantine"):
        found[name] = found[name].query("method == 'ffgg'")
    assert checked_claims(PARTIAL_CLAIMS, found)["verdict"].eq("not run").all()
    unfitted = splits.assign(loss=1.0)
    assert checked_claims(PARTIAL_CLAIMS[:1], {"splits": unfitted})["verdict"].item() == (
        "does not hold"
    )


def test_figures_name_what_they_show(splits):
    found = frames(borne, splits)
    drawn = [
        figures.plot_splits(splits),
        figures.plot_bearing(found["local_steps"], "local epochs"),
        figures.plot_bearing(found["delays"], "delay"),
        figures.plot_byzantine(found["byzantine"]),
    ]
    assert all(isinstance(figure, Figure) for figure in drawn)
    panels = [axis.get_title(loc="left") for axis in drawn[0].axes]
    assert [title.splitlines()[0] for title in panels] == [f"local: {s}" for s in partial.SPLITS]
    assert all(len(axis.get_lines()) == 4 for axis in drawn[0].axes)  # 3 clients and the bound
    assert [axis.get_title(loc="left").partition(":")[0] for axis in drawn[1].axes] == [
        "equal local work"
    ]
    cells = [text.get_text() for axis in drawn[3].axes for text in axis.texts]
    assert cells.count("diverged") == 4 and cells.count("90") == 8


def test_nothing_to_show_is_shown_all_the_same(splits):
    """A notebook may be asked for other methods."""
    nothing = {
        "local_steps": partial.local_steps([]),
        "delays": partial.late([]),
        "byzantine": partial.byzantine([]),
    }
    for name in ("local_steps", "delays"):
        figures.plot_bearing(nothing[name], "x")
    figures.plot_byzantine(nothing["byzantine"])
    told = checked_claims(PARTIAL_CLAIMS, nothing | {"splits": splits})["verdict"]
    assert told.tolist() == ["holds", "not run", "not run", "not run"]
    assert isinstance(nothing["delays"], pd.DataFrame)
