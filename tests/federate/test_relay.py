"""The relay between a client and the server."""

import socket
import threading

import pytest

from fedobp_lib.federate.relay import Relay


def test_a_relay_passes_all_on_counts_it_and_leaves_no_port_open():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def echo_doubled():
            near, _ = server.accept()
            with near:
                while block := near.recv(1 << 16):
                    near.sendall(2 * block)

        thread = threading.Thread(target=echo_doubled)
        thread.start()
        relay = Relay(server.getsockname()[1])
        host, port = relay.address.split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"x" * 100_000)
            client.shutdown(socket.SHUT_WR)
            got = 0
            while block := client.recv(1 << 16):
                got += len(block)
        thread.join()
    assert relay.up == 100_000 and relay.down == got == 200_000
    relay.close()
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)))
