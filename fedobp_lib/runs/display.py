"""What people see of a sweep: one bar over all rounds, the latest accuracies, what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType

from ..config import ResolvedConfig
from ..progress import progress_bar
from .computing import Event


class Display:
    """Follows the events of runs.

    Args:
        runs: by their ids.
        show: a bar.

    Attributes:
        failed: why runs failed, by their ids.
        busy: ids of runs that other processes compute.
    """

    def __init__(self, runs: Mapping[str, ResolvedConfig], show: bool) -> None:
        self.failed: dict[str, str] = {}
        self.busy: list[str] = []
        self._runs = runs
        self._rounds = dict.fromkeys(runs, 0)
        self._ended = 0
        self._bar = progress_bar(sum(config.rounds for config in runs.values()), show)

    def __enter__(self) -> Display:
        self._bar.set_description(self._title(None))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.close()

    def tell(self, event: Event) -> None:
        """Take in an event."""
        if event.kind == "note":
            self._say(event.text)
            return
        if event.kind == "failed":
            self.failed[event.run] = event.text
            self._say(f"failed: {_name(self._runs[event.run])}: {event.text}")
        if event.kind == "busy":
            self.busy.append(event.run)
            self._say(f"{event.text}; going on with others")
        # What is over, however, is no work any more.
        over = event.kind != "round"
        self._rounds[event.run] = self._runs[event.run].rounds if over else event.round
        self._ended += over
        self._bar.set_description(self._title(event), refresh=False)
        self._bar.update(sum(self._rounds.values()) - self._bar.n)

    def _title(self, event: Event | None) -> str:
        title = f"{self._ended}/{len(self._runs)} runs"
        if event is None or not event.run:
            return title
        title += f": {_name(self._runs[event.run])}"
        return title if event.accuracy is None else f"{title} {event.accuracy:.1f} %"

    def _say(self, text: str) -> None:
        self._bar.clear()
        print(text, file=sys.stderr)
        self._bar.refresh()


def _name(config: ResolvedConfig) -> str:
    return f"{config.method} {config.dataset} {config.alpha:g} seed {config.seed}"
