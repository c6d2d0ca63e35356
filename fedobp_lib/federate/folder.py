"""Where the processes of a run find what they need, in the run's folder while it is computed.

clients/plan.json       what all processes know
clients/samples.json    what the server has learnt of each client's number of samples
clients/reason          why the server has stopped
clients/N/              what client N alone can read: data.npz, state-ROUND.pt, log, pid;
                        `server`, where it finds the server; `ended`, once it has
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..runs.files import read_json, remove_leftovers, write, write_json


class PrivateFolder:
    """What is private to the processes of a run; it goes when the run is finished.

    Args:
        run: the folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "clients"
        self.reason = self.path / "reason"
        self.flower = self.path / "flower"  # Flower's own
        self._plan = self.path / "plan.json"
        self._samples = self.path / "samples.json"

    def of(self, client: int) -> Path:
        """The folder of a client."""
        return self.path / str(client)

    def prepare(self, clients: int, plan: dict[str, Any]) -> None:
        """Make the folder, for this user alone, and have all processes know the plan.

        Args:
            clients: how many.
            plan: anything that goes into JSON.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        self.reason.unlink(missing_ok=True)
        for client in range(clients):
            self.of(client).mkdir(mode=0o700, exist_ok=True)
            remove_leftovers(self.of(client))
            for path in (self._address(client), self.of(client) / "ended"):  # of an older run
                path.unlink(missing_ok=True)
        write_json(self._plan, plan)

    def plan(self) -> dict[str, Any]:
        """See `prepare`."""
        return read_json(self._plan)

    def announce(self, client: int, address: str) -> None:
        """Tell a client where the server is."""
        write(self._address(client), lambda file: file.write(address.encode()))

    def address(self, client: int) -> str:
        """What was announced last.

        Raises:
            OSError: nothing yet.
        """
        return self._address(client).read_text(encoding="utf-8")

    def known_samples(self, new: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        """How many samples clients have: as told to an earlier server, and the `new` ones."""
        known = read_json(self._samples) if self._samples.exists() else {}
        known |= {str(client): numbers for client, numbers in new.items()}
        write_json(self._samples, known)
        return {int(client): tuple(numbers) for client, numbers in known.items()}

    def last_words(self, client: int) -> str:
        """What a client's process has said at its end."""
        text = (self.of(client) / "log").read_text(encoding="utf-8", errors="replace")
        return next((line for line in reversed(text.splitlines()) if line.strip()), "nothing")

    def note_end(self, client: int) -> None:
        """Note that a client's process has ended, so that no server waits for it."""
        (self.of(client) / "ended").touch()

    def has_ended(self, client: int) -> bool:
        """See `note_end`."""
        return (self.of(client) / "ended").exists()

    def remove(self) -> None:
        """Remove it, as far as it is there."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _address(self, client: int) -> Path:
        return self.of(client) / "server"
