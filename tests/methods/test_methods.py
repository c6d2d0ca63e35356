"""Each method against a slow, literal version: one client at a time, plain Python loops."""

import pytest
import torch
from helpers import ROOT
from helpers.slow_rounds import check_rounds

from fedobp_lib.errors import UserError
from fedobp_lib.methods import METHODS, make_settings


def test_fedavg_against_the_slow_version(federation):
    check_rounds(federation, METHODS["fedavg"](federation), lambda local, global_: global_)


def test_local_only_shares_nothing(federation):
    method = METHODS["local-only"](federation)
    check_rounds(federation, method, lambda local, global_: local, averages=False)
    assert torch.equal(method.global_params, federation.initial)


def test_fedper_keeps_the_classifier_and_shares_the_rest(federation):
    cut = federation.layout.parameters - 513 * 3
    method = METHODS["fedper"](federation)
    check_rounds(federation, method, lambda local, global_: torch.cat([global_[:cut], local[cut:]]))
    _, personal = method.start(torch.tensor([0, 1]))
    assert personal.nonzero().min() == cut and personal.sum() == 513 * 3


def test_majority_class_always_gives_its_favourite(federation):
    from fedobp_lib.training.evaluation import evaluate

    method = METHODS["majority-class"](federation)
    clients = torch.arange(4)
    start, _ = method.start(clients)
    scores = evaluate(federation.trainer, start, range(4))
    for client in range(4):
        train = federation.data.labels[federation.data.partition.train(client)]
        test = federation.data.labels[federation.data.partition.test(client)]
        favourite = torch.bincount(train).argmax()
        assert scores.correct[client] == (test == favourite).sum()
    assert torch.equal(method.train(start, clients), start)


def test_settings_are_checked():
    fedobp = METHODS["fedobp"]
    assert make_settings(fedobp, {"quantile": "0.5", "classifier_only": "1"}).quantile == 0.5
    for values, message in [
        ({"quantil": 0.5}, "did you mean 'quantile'"),
        ({"quantile": "high"}, "must be of type float"),
        ({"quantile": 1.5}, r"\[0, 1\]"),
        ({"score": "fischer"}, "did you mean 'fisher'"),
        ({"classifier_only": "maybe"}, "bool"),
    ]:
        with pytest.raises(UserError, match=message):
            make_settings(fedobp, values)
    with pytest.raises(UserError, match="none at all"):
        make_settings(METHODS["fedavg"], {"mu": 1})


def test_the_method_in_the_readme():
    """It runs as printed, and keeps 32 + 64 + 512 + 10 biases of every client."""
    text = (ROOT / "README.md").read_text()
    code = text.split("<!-- example: tests run this -->\n```python\n")[1].split("```")[0]
    names: dict = {}
    try:
        exec(code, names)
    finally:
        METHODS.pop("fedbias", None)
    result = names["result"]
    kept = result.layers[result.layers["round"] == 3].set_index("layer")["personalized"]
    assert kept.to_dict() == {"conv1": 32, "conv2": 64, "fc1": 512, "classifier": 10}
