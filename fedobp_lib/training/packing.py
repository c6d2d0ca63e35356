"""Several runs at once: their clients are trained, differentiated and tested as one batch.

Every run goes on in a thread of its own, as if it were alone; only its back-end is a
`PackedBackend`, which hands every request to a `RequestBatcher`. When all runs of the pack wait
for an answer, their requests go to the real back-end together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from .trainer import Backend, Job, Question

Work = Callable[[Backend], Any]


class RequestBatcher:
    """Collects a request from every run of a pack and answers them together.

    Args:
        backend: answers them.
        runs: how many.
    """

    def __init__(self, backend: Backend, runs: int) -> None:
        self.backend = backend
        self._active = set(range(runs))
        self._requests: dict[int, tuple[str, Any]] = {}
        self._answers: dict[int, Any] = {}
        self._closed: BaseException | None = None
        self._change = threading.Condition()

    def ask(self, run: int, kind: str, request: Any) -> Any:
        """Wait until every run has asked; returns the answer to this run's request."""
        with self._change:
            self._requests[run] = kind, request
            self._serve()
            while run not in self._answers and self._closed is None:
                self._change.wait()
            if self._closed is not None:
                raise self._closed
            answer = self._answers.pop(run)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def leave(self, run: int) -> None:
        """A run is over; the others no longer wait for it."""
        with self._change:
            self._active.discard(run)
            self._serve()

    def close(self, reason: BaseException) -> None:
        """Every run that asks from now on gets `reason` raised."""
        with self._change:
            self._closed = reason
            self._change.notify_all()

    def _serve(self) -> None:
        if not self._requests or set(self._requests) != self._active:
            return
        for kind in sorted({kind for kind, _ in self._requests.values()}):
            runs = sorted(run for run, (asked, _) in self._requests.items() if asked == kind)
            try:
                requests = [self._requests[run][1] for run in runs]
                answers = getattr(self.backend, kind)(requests)
            except BaseException as error:
                answers = [error] * len(runs)
            self._answers.update(zip(runs, answers, strict=True))
        self._requests.clear()
        self._change.notify_all()


class PackedBackend:
    """The back-end of one run among several."""

    def __init__(self, batcher: RequestBatcher, number: int) -> None:
        self.layout = batcher.backend.layout
        self.name = batcher.backend.name
        self.heads = batcher.backend.heads  # small work, which every run does for itself
        self._batcher = batcher
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
        return [self._batcher.ask(self._number, kind, request) for request in requests]


def run_packed(backend: Backend, works: Sequence[Work]) -> list[Any]:
    """What every work returns, all of them sharing the back-end.

    The first fault of any of them is raised when the others have ended.

    Args:
        backend: answers the requests of all.
        works: called in a thread each, with the back-end to use.
    """
    batcher = RequestBatcher(backend, len(works))
    results: list[Any] = [None] * len(works)
    faults: list[BaseException] = []

    def one(run: int) -> None:
        try:
            results[run] = works[run](PackedBackend(batcher, run))
        except BaseException as error:
            faults.append(error)
        finally:
            batcher.leave(run)

    threads = [
        threading.Thread(target=one, args=(run,), name=f"run-{run}", daemon=True)
        for run in range(len(works))
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt as stop:
        batcher.close(stop)
        for thread in threads:
            thread.join()
        raise
    if faults:
        raise faults[0]
    return results
