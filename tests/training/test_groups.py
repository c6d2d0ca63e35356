"""A GPU whose memory does not hold as many clients as are tested together."""

import pytest
import torch
from helpers.literal import tiny_images

from fedobp_lib import RunConfig
from fedobp_lib.simulation import simulate

SMALL = {"clients": 12, "participation": 0.5, "rounds": 3, "local_epochs": 1, "min_samples": 4}


class Full:
    """A back-end on a device that holds so many rows of a kind of request."""

    def __init__(self, real, kind, rows):
        self.real, self.kind, self.rows, self.asked = real, kind, rows, []

    def __getattr__(self, name):
        answer = getattr(self.real, name)
        if name != self.kind:
            return answer

        def limited(requests):
            self.asked.append(sum(len(request.clients) for request in requests))
            if self.asked[-1] > self.rows:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return answer(requests)

        return limited


def simulation(**fields):
    return simulate(RunConfig(**SMALL, **fields), tiny_images())


def limited(kind, rows, **fields):
    made = simulation(**fields)
    made.trainer.backend = Full(made.trainer.backend, kind, rows)
    return made, made.trainer.backend


@pytest.mark.parametrize("method", ["fedobp", "apfl"])
@pytest.mark.parametrize(("rows", "asked", "told"), [
    (4, [6, 3, 3], ["6 clients at once does not fit into memory; now at most 3"]),
    (1, [6, 3, 2, 1], ["6 clients at once", "3 clients at once", "2 clients at once"]),
])  # fmt: skip
def test_groups_are_halved_until_they_fit(method, rows, asked, told, capsys):
    whole = simulation(method=method, eval_after="always", eval_every=2)
    ours, backend = limited("test", rows, method=method, eval_after="always", eval_every=2)
    for made in (whole, ours):
        made.run(progress=False)
    assert ours.history == whole.history and ours.layers == whole.layers
    assert backend.asked[: len(asked)] == asked
    assert max(backend.asked[len(asked) :]) <= asked[-1]  # they stay so
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(told)
    for line, part in zip(lines, told, strict=True):
        assert line.startswith(f"testing {part}") and len(line) < 80


def test_fine_tuning_for_a_test_is_halved_too(capsys):
    """The cohort of six fits, the ten clients of a test do not."""
    whole, (ours, backend) = simulation(), limited("fit", 6)
    for made in (whole, ours):
        made.run(progress=False)
    assert ours.history == whole.history
    assert backend.asked == [6, 6, 6, 10, 5, 5, 2]
    assert "testing 10 clients at once" in capsys.readouterr().err


def test_a_single_client_that_does_not_fit_ends_the_run():
    ours, backend = limited("test", 0)
    with pytest.raises(torch.OutOfMemoryError):
        ours.run(progress=False)
    assert backend.asked == [6, 3, 2, 1]


def test_training_that_does_not_fit_is_not_halved():
    """Whoever computes several runs at once halves those."""
    ours, backend = limited("fit", 5)
    with pytest.raises(torch.OutOfMemoryError):
        ours.run(progress=False)
    assert backend.asked == [6]
