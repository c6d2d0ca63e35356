"""Uploads that are late, beside a list of letters with dates."""

from dataclasses import replace

import pytest
import torch
from helpers.literal import COHORTS, make, play, same, tiny_federation, tiny_images

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.data.clients import DELAYS, stream
from fedobp_lib.methods import METHODS, in_parts, make_method, post
from fedobp_lib.simulation import Simulation, simulate

TINY = {"clients": 5, "participation": 0.6, "rounds": 8, "local_epochs": 1, "batch_size": 8,
        "lr": 0.05, "eval_every": 4}  # fmt: skip
DIGITS = TINY | {"batch_size": 64, "lr": 0.01}
# Fine-tuning that ends by a threshold may end elsewhere after other roundings.
ALL_EPOCHS = {"tolerance": 0.0, "tune_epochs": 2}
ROUNDS = [*COHORTS, [2, 3, 4], [0, 1, 4], [0, 2, 3], [1, 2, 4]]


class Letters:
    """A method whose uploads are kept in a list until their date."""

    def __init__(self, method, most, gradient):
        self.method, self.most, self.gradient = method, most, gradient
        self.letters = []
        self.read = []
        method.finish = self.finish

    def finish(self, clients, start, trained):
        method = self.method
        for row, client in zip(method.upload(clients, start, trained), clients, strict=True):
            days = stream(5, DELAYS, method.round, int(client)).integers(self.most + 1)
            letter = method.round + days, client, row, method.global_params[method.travels].clone()
            self.letters.append(letter)
        method.keep(clients, start, trained)
        came = [letter for letter in self.letters if letter[0] == method.round]
        self.read.append(len(came))
        if not came:
            return
        now = method.global_params[method.travels]
        rows = [row if self.gradient else row + (now - then) for _, _, row, then in came]
        method.aggregate(torch.stack([client for _, client, _, _ in came]), torch.stack(rows))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("fedavg", {}), ("fedper", {}), ("fedobp", {"quantile": 0.9}), ("lg-fedavg", {}),
     ("apfl", {}), ("ffgg", ALL_EPOCHS), ("ffgg", ALL_EPOCHS | {"variant": "gradient"})],
)  # fmt: skip
def test_it_is_a_list_of_letters(name, settings):
    federation = tiny_federation()
    ours = make_method(name, replace(federation, delays=3, cohort=3), settings)
    letters = Letters(make(name, federation, **settings), 3, "variant" in settings)
    for mine, theirs in zip(play(ours, ROUNDS), play(letters.method, ROUNDS), strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert same(one, other, 1e-4)
    for part, value in letters.method.state.items():
        assert same(ours.state[part], value, 1e-4)
    # Rounds of many letters and of few, and some that never arrive.
    assert len(set(letters.read)) > 2 and sum(letters.read) < 3 * len(ROUNDS)


def test_what_is_never_late_is_the_synchronous_run(monkeypatch, tmp_path):
    """Byte for byte, though it goes through the post."""
    plain = run(RunConfig(**DIGITS, method="fedavg"), directory=tmp_path / "plain")

    class Now:
        def integers(self, most):
            return 0

    monkeypatch.setattr(post, "stream", lambda *where: Now())
    prompt = run(RunConfig(**DIGITS, method="fedavg", delays=4), directory=tmp_path / "prompt")
    assert plain.run_id != prompt.run_id
    one, other = ((r.directory / "history.csv").read_bytes() for r in (plain, prompt))
    assert one == other


def test_where_nothing_arrives_the_servers_model_stays(monkeypatch):
    class Late:
        def integers(self, most):
            return most - 1

    monkeypatch.setattr(post, "stream", lambda *where: Late())
    federation = tiny_federation()
    method = make_method("fedper", replace(federation, delays=2, cohort=3), {})
    for number, cohort in enumerate(ROUNDS[:3], 1):
        method.round, clients = number, torch.tensor(cohort)
        start, _ = method.start(clients)
        method.finish(clients, start, method.train(start, clients))
        assert torch.equal(method.global_params, federation.initial) == (number < 3)
        kept = method.state["classifiers"][clients]  # a client's own is its own at once
        assert not torch.equal(kept, federation.initial[method.columns].expand_as(kept))


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    ("name", "bank"), [("fedper", "device"), ("fedper", "disk"), ("ffgg", "host")]
)
def test_a_killed_run_goes_on_with_what_is_under_way(name, bank, tmp_path, capsys):
    settings = ALL_EPOCHS if name == "ffgg" else {}
    options = {"method": name, "delays": 3, "byzantine": "sign_flip:0.2", "settings": settings}
    config = RunConfig(**DIGITS, **options)
    whole = run(config, directory=tmp_path / "whole", bank=bank)

    def stop(simulation):
        if simulation.round == 5:
            assert (simulation.method.state["due"] > 5).any()
            raise Killed

    options = {"directory": tmp_path / "killed", "bank": bank, "checkpoint_seconds": 0}
    with pytest.raises(Killed):
        run(config, on_round=stop, **options)
    rounds = []
    again = run(config, on_round=lambda s: rounds.append(s.round), **options)
    assert rounds[0] >= 4  # not from the beginning
    assert "starting over" not in capsys.readouterr().err
    for file in ("history.csv", "layers.csv", "clients.csv"):
        assert (again.directory / file).read_bytes() == (whole.directory / file).read_bytes()


@pytest.mark.parametrize("name", ["fedavg", "ffgg"])
def test_batched_equals_loop(name):
    fields = TINY | {"rounds": 5, "delays": 2, "method": name}
    loop, batched = (
        simulate(RunConfig(**fields), tiny_images(), backend=backend)
        for backend in ("loop", "batched")
    )
    for simulation in (loop, batched):
        simulation.run(progress=False)
    for part, value in loop.method.state.items():
        assert same(batched.method.state[part].float(), value.float(), 1e-4)


def test_a_checkpoint_with_another_delay_is_not_taken():
    def of(delays):
        return simulate(RunConfig(**TINY, method="fedavg", delays=delays), tiny_images())

    begun, other = of(2), of(3)
    begun.step()
    with pytest.raises(ValueError, match="another size"):
        Simulation.load_state(other, begun.state())


def test_methods_whose_uploads_are_not_apart_refuse():
    for name, method in METHODS.items():
        config = RunConfig(method=name, delays=1)
        if in_parts(method):
            config.resolved()
        else:
            with pytest.raises(UserError, match="cannot have delays=1"):
                config.resolved()
    with pytest.raises(UserError, match="set delays=0"):
        RunConfig(delays=1, settings={"scoring": "server"}).resolved()
    for delays in (-1, 101, 0.5):
        with pytest.raises(UserError):
            RunConfig(delays=delays).resolved()
