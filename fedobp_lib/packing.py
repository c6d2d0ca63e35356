"""Several runs at once: their clients are trained, differentiated and tested as one batch.

Every run goes on in a thread of its own, as if it were alone; only its back-end is a `Seat` at a
`Table`. When all runs wait for an answer, the requests go to the real back-end together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from .training import Backend, Job, Question

Work = Callable[[Backend], Any]


class Table:
    """Where the requests of several runs meet.

    Args:
        backend: answers them.
        seats: number of runs.
    """

    def __init__(self, backend: Backend, seats: int) -> None:
        self.backend = backend
        self._taken = set(range(seats))
        self._requests: dict[int, tuple[str, Any]] = {}
        self._answers: dict[int, Any] = {}
        self._closed: BaseException | None = None
        self._change = threading.Condition()

    def ask(self, seat: int, kind: str, request: Any) -> Any:
        """Wait until every seat has asked; returns the answer to this seat's request."""
        with self._change:
            self._requests[seat] = kind, request
            self._serve()
            while seat not in self._answers and self._closed is None:
                self._change.wait()
            if self._closed is not None:
                raise self._closed
            answer = self._answers.pop(seat)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def leave(self, seat: int) -> None:
        """A run is over; the others no longer wait for it."""
        with self._change:
            self._taken.discard(seat)
            self._serve()

    def close(self, reason: BaseException) -> None:
        """Every run that asks from now on gets `reason` raised."""
        with self._change:
            self._closed = reason
            self._change.notify_all()

    def _serve(self) -> None:
        if not self._requests or set(self._requests) != self._taken:
            return
        for kind in sorted({kind for kind, _ in self._requests.values()}):
            seats = sorted(s for s, (asked, _) in self._requests.items() if asked == kind)
            try:
                requests = [self._requests[seat][1] for seat in seats]
                answers = getattr(self.backend, kind)(requests)
            except BaseException as error:
                answers = [error] * len(seats)
            self._answers.update(zip(seats, answers, strict=True))
        self._requests.clear()
        self._change.notify_all()


class Seat:
    """The back-end of one run among several."""

    def __init__(self, table: Table, number: int) -> None:
        self.layout = table.backend.layout
        self._table = table
        self._number = number

    def fit(self, jobs: Sequence[Job]) -> list:
        """See `Backend`."""
        return self._ask("fit", jobs)

    def gradient(self, questions: Sequence[Question]) -> list:
        """See `Backend`."""
        return self._ask("gradient", questions)

    def fisher(self, questions: Sequence[Question]) -> list:
        """See `Backend`."""
        return self._ask("fisher", questions)

    def features(self, questions: Sequence[Question]) -> list:
        """See `Backend`."""
        return self._ask("features", questions)

    def test(self, questions: Sequence[Question]) -> list:
        """See `Backend`."""
        return self._ask("test", questions)

    def _ask(self, kind: str, requests: Sequence[Job] | Sequence[Question]) -> list:
        return [self._table.ask(self._number, kind, request) for request in requests]


def together(backend: Backend, works: Sequence[Work]) -> list[Any]:
    """What every work returns, all of them sharing the back-end.

    The first fault of any of them is raised when the others have ended.

    Args:
        backend: answers the requests of all.
        works: called in a thread each, with the back-end to use.
    """
    table = Table(backend, len(works))
    results: list[Any] = [None] * len(works)
    faults: list[BaseException] = []

    def one(seat: int) -> None:
        try:
            results[seat] = works[seat](Seat(table, seat))
        except BaseException as error:
            faults.append(error)
        finally:
            table.leave(seat)

    threads = [
        threading.Thread(target=one, args=(seat,), name=f"run-{seat}", daemon=True)
        for seat in range(len(works))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt as stop:
        table.close(stop)
        for thread in threads:
            thread.join()
        raise
    if faults:
        raise faults[0]
    return results
