"""A relay between one client and the server, which counts every byte that passes."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

HERE = "127.0.0.1"


class Relay:
    """Listens on a port of its own of this machine and passes all on to the server's.

    Args:
        port: the server's.

    Attributes:
        address: where a client finds the server.
        down, up: bytes sent to the client, and received from it.
    """

    def __init__(self, port: int) -> None:
        self.down = self.up = 0
        self._port = port
        self._listening = socket.create_server((HERE, 0))
        self.address = f"{HERE}:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):  # it wakes the thread that waits for one
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:  # closed
                return
            try:
                far = socket.create_connection((HERE, self._port))
            except OSError:  # the client tries again
                near.close()
                continue
            for end in (near, far):  # else small messages wait for an acknowledgement
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._join, args=(near, far), daemon=True).start()

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        """Pass on both ways until both have ended."""
        with near, far:
            down = threading.Thread(target=self._pass_on, args=(far, near, "down"), daemon=True)
            down.start()
            self._pass_on(near, far, "up")
            down.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while block := source.recv(1 << 16):
                # One thread a way; a client that comes again begins after its last has ended.
                setattr(self, way, getattr(self, way) + len(block))
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one end is gone: so is the other
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
