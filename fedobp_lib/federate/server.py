"""The server: it chooses cohorts, sends and checks, aggregates, and keeps the history.

It is a `Simulation` whose clients are elsewhere: whatever needs their data is asked of them. So the
cohorts, the arithmetic of the history, checkpoints and results are those of the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import ResolvedConfig
from ..errors import FederationFailed
from ..methods import Message, Method, scores_on_server
from ..simulation import GROUP, Simulation
from ..training.evaluation import Scores
from .answers import Kind, personal_counts, problem, tested_kinds, trained_kinds
from .link import Fault, Link, Request
from .tally import Tally


class Server(Simulation):
    """The rounds of a federation.

    Args:
        config: the run.
        method: the server's; its clients' data are numbers of samples alone.
        link: the way to the clients.
        say: what tells of faults.

    Attributes:
        faults: of each: `round`, `client` and `what`.
        tally: bytes sent.
    """

    def __init__(
        self, config: ResolvedConfig, method: Method, link: Link, say: Callable[[str], None]
    ) -> None:
        super().__init__(config, method)
        self.link = link
        self.faults: list[dict[str, Any]] = []
        self.tally = Tally()
        self._say = say
        self._members: set[int] = set()  # clients that have begun
        self._saved: list[int] = []  # clients that have saved what belongs to the last checkpoint
        self._kept = 0  # its round

    def begin(self) -> None:
        """Have the clients begin where the server does, after a checkpoint or at the beginning.

        Raises:
            FederationFailed: one cannot.
        """
        requests = {
            client: self._request("begin", saved=client in self._saved)
            for client in self.link.here()
        }
        done = self._ask(requests, {})
        self._members = set(done)
        lost = sorted(requests.keys() - done.keys())
        if lost:
            raise FederationFailed(f"client {lost[0]} cannot go on from round {self.round}")

    def _take_round(self, clients: Tensor) -> None:
        began = self._clock()
        cohort = clients[torch.isin(clients, torch.tensor(self._here()))]
        start, personal = self._starts(cohort)
        sent = self.method.messages_down(cohort, start)
        requests = {
            client: self._request("train", message)
            for client, message in zip(cohort.tolist(), sent, strict=True)
        }
        answers = self._ask(requests, trained_kinds(self.method))
        if answers:
            came = torch.isin(cohort, torch.tensor(sorted(answers)))
            own = None if personal is None else personal[came]
            self._finish(cohort[came], start[came], own, answers)
        elif self._here():
            self._event(None, "no model came in; the server's stays as it is")
        else:
            raise FederationFailed(f"round {self.round}: no client is left")
        finished = self._clock()
        self.seconds["rounds"] += finished - began
        if self.done or self.round % self.config.eval_every == 0:
            self._evaluate_all()
        self.seconds["tests"] += self._clock() - finished  # with what the clients tune for them

    def _finish(
        self, clients: Tensor, start: Tensor, personal: Tensor | None, answers: dict[int, Message]
    ) -> None:
        """Take in the models of clients whose answers can be used.

        Args:
            clients: int64 (K,), in the order of the cohort.
            start, personal: theirs, as `_starts` gave them.
            answers: theirs.
        """
        if self.tests_cohort:
            self._record("before", "cohort", self._scores(answers, 0))
            self._record("after", "cohort", self._scores(answers, 1))
        theirs = [answers[client] for client in clients.tolist()]
        if personal is None:
            parts = [answer["personal"] for answer in theirs]
        else:
            parts = [personal_counts(self.method, mask) for mask in personal]
        counts = torch.stack(parts).sum(0)
        for (layer, columns), count in zip(self.layout.layers.items(), counts, strict=True):
            width = columns.stop - columns.start
            self.layers.append([self.round, layer, width, count.item() / len(clients)])
        nothing = torch.empty(0)
        uploaded = torch.stack([answer.get("model", nothing) for answer in theirs])
        if scores_on_server(self.method):
            self.method.keep(clients, start, uploaded)
        self.method.aggregate(clients, uploaded)

    def _starts(self, clients: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `Method.start` where the server scores; else it knows of no client's start."""
        if scores_on_server(self.method) and len(clients):
            return self.method.start(clients)
        return torch.empty(len(clients), 0), None

    def _test_all(self, tune: bool) -> list[Scores]:
        answers: dict[int, Message] = {}
        for some in torch.tensor(self._here(), dtype=torch.int64).split(GROUP):
            sent = self.method.messages_down(some, self._starts(some)[0])
            requests = {
                client: self._request("test", message, tune=tune)
                for client, message in zip(some.tolist(), sent, strict=True)
            }
            answers |= self._ask(requests, tested_kinds(1 + tune))
        if not answers:
            raise FederationFailed(f"round {self.round}: no client has tested its model")
        self.tested = np.array(sorted(answers))
        return [self._scores(answers, stage) for stage in range(1 + tune)]

    def _scores(self, answers: Mapping[int, Message], stage: int) -> Scores:
        clients = sorted(answers)
        samples = np.diff(self.data.partition.test_offsets)[clients]
        correct, loss = (
            torch.stack([answers[client][name][stage] for client in clients])
            for name in ("correct", "loss")
        )
        return Scores(correct, loss, torch.from_numpy(samples))

    def _request(self, ask: str, message: Message | None = None, **options: int) -> Request:
        return Request(ask, self.round, message or {}, options)

    def _here(self) -> list[int]:
        return [client for client in self.link.here() if client in self._members]

    def _ask(
        self, requests: Mapping[int, Request], expected: dict[str, Kind]
    ) -> dict[int, Message]:
        """The answers that can be used; what is wrong with the others is said."""
        answers = self.link.ask(requests)
        self.tally.count(requests, answers, self.link.wire())
        good = {}
        for client, answer in sorted(answers.items()):
            if isinstance(answer, Fault):
                self._event(client, answer.why)
            elif wrong := self._problem(client, answer, expected):
                self._event(client, f"is refused: {wrong}")
            else:
                good[client] = answer
        return good

    def _problem(self, client: int, answer: Message, expected: dict[str, Kind]) -> str | None:
        wrong = problem(answer, expected)
        if wrong is None and "samples" in answer:
            said, known = answer["samples"].item(), self.data.train_counts[client].item()
            if said != known:  # the weight of its model
                return f"it says that it has {said} samples, and had {known}"
        return wrong

    def _event(self, client: int | None, what: str) -> None:
        self.faults.append({"round": self.round, "client": client, "what": what})
        who = "" if client is None else f"client {client} "
        self._say(f"round {self.round}: {who}{what}")

    def state(self) -> dict[str, Any]:
        """See `Simulation.state`; the clients save what is theirs first.

        Raises:
            OSError: one that is there could not.
        """
        requests = {client: self._request("save", kept=self._kept) for client in self._here()}
        saved = sorted(self._ask(requests, {}))
        if not set(self._here()) <= set(saved):
            raise OSError(0, "a client could not save")
        own = {"traffic": self.tally.rows, "faults": self.faults, "saved": saved}
        return super().state() | own

    def commit_state(self) -> None:
        super().commit_state()
        self._kept = self.round

    def load_state(self, state: dict[str, Any]) -> None:
        own = [state[name] for name in ("traffic", "faults", "saved")]
        super().load_state(state)
        self.tally.rows, self.faults, self._saved = own
        self._kept = self.round
