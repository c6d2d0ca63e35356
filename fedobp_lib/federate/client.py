"""A client: it holds its data and whatever is its own, and does what the server asks.

`train` is its part of a round.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.clients import FINE_TUNE
from ..errors import UserError
from ..methods import Message, Method, scores_on_server
from ..methods.kept_rows import check, keep, put_back
from ..runs.checkpoints import require_whole
from ..runs.files import write
from ..training.evaluation import Scores, evaluate
from .answers import personal_counts
from .link import Request


class Client:
    """Answers the server's requests, one at a time.

    Args:
        number: which client it is, from 0.
        make: makes its method as it is at the beginning of a run.
        folder: its own, where it keeps its state.
    """

    def __init__(self, number: int, make: Callable[[], Method], folder: Path) -> None:
        self.one = torch.tensor([number])
        self._make = make
        self._folder = folder
        self.method = make()

    def answer(self, request: Request) -> Message:
        """Do what a request asks for.

        Raises:
            UserError: it cannot be done; nothing is changed.
        """
        known = {
            "begin": self.begin, "train": self.train, "test": self.test, "save": self.save,
        }  # fmt: skip
        return known[request.ask](request)

    def begin(self, request: Request) -> Message:
        """Be as after a round: the beginning of a run, or of a part of it after a break."""
        self.method = self._make()
        saves = self._saves()
        for number in [n for n in saves if n > request.round]:  # of rounds that are taken again
            saves.pop(number).unlink()
        if request.options["saved"] and request.round not in saves:
            raise UserError(f"it has nothing saved of round {request.round}")
        if saves:
            path = saves[max(saves)]
            try:
                require_whole(path)
                self._load(torch.load(path, weights_only=True))
            except Exception as error:  # whatever a damaged file can raise
                raise UserError(f"{path.name} cannot be read") from error
        return {}

    def train(self, request: Request) -> Message:
        """Take part in a round: train, and test before and after it."""
        method, one = self.method, self.one
        method.round = request.round
        start, personal = method.receive(one, request.message)
        start = start.clone()
        trained = method.train(start, one)
        report = _told([self._test(start), self._test(trained)])
        (sent,) = method.messages_up(one, start, trained)
        if not scores_on_server(method):  # which else keeps it, and knows what is personal
            report["personal"] = personal_counts(method, personal)
            method.keep(one, start, trained)
        return sent | report

    def test(self, request: Request) -> Message:
        """Test the model it would begin with, and where asked the same after fine-tuning."""
        method, one = self.method, self.one
        method.round = request.round
        start, _ = method.receive(one, request.message)
        tests = [self._test(start)]
        if request.options["tune"]:
            tests.append(self._test(method.train(start, one, FINE_TUNE)))
        return _told(tests)

    def save(self, request: Request) -> Message:
        """Keep on disk all that is its own; older saves go, but for what a checkpoint needs."""
        path = self._folder / f"state-{request.round}.pt"
        state = {name: keep(value, None) for name, value in self._own().items()}
        try:
            write(path, lambda file: torch.save(state, file))
        except OSError as error:
            raise UserError(f"it cannot save: {error.strerror}") from error
        saves = self._saves()
        needed = max((n for n in saves if n <= request.options["kept"]), default=0)
        for number, older in saves.items():
            if number < needed:
                older.unlink()
        return {}

    def _own(self) -> dict[str, Any]:
        if scores_on_server(self.method):
            return {}
        return {name: value for name, value in self.method.state.items() if name != "global"}

    def _load(self, state: dict[str, Any]) -> None:
        own = self._own()
        if own.keys() != state.keys():
            raise KeyError("the state is of another method")
        for name, value in own.items():
            check(state[name], value, None)
        for name, value in own.items():
            put_back(state[name], value, None, None)

    def _saves(self) -> dict[int, Path]:
        found = self._folder.glob("state-*.pt")
        return {int(path.stem.removeprefix("state-")): path for path in found}

    def _test(self, rows: Tensor) -> Scores:
        models = self.method.models(rows, self.one)
        return evaluate(self.method.federation.trainer, models, self.one.tolist())


def _told(tests: list[Scores]) -> Message:
    return {
        "correct": torch.cat([scores.correct for scores in tests]),
        "loss": torch.cat([scores.loss for scores in tests]),
    }
