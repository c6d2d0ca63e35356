"""Clients that send back what they are sent: a program, run by tests.

    echo_clients ADDRESS RELEASE SECRET...    a client for each secret

ADDRESS is a file for each client's address, to which `.N` is added. Asked for round 13, a client
waits until the file RELEASE is there; asked for round 14, it fails.
"""

import os
import sys
import threading
import time
from pathlib import Path

from fedobp_lib.federate.flower_client import join, prepare


def be(number: int, address: str, release: str, secret: str) -> None:
    def answer(request):
        if request.round == 14:
            raise ArithmeticError("the numbers are odd")
        while request.round == 13 and not Path(release).exists():
            time.sleep(0.01)
        return request.message

    def end_with_parent() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    known = {"client": number, "secret": secret, "train_samples": 10 + number, "test_samples": 5}
    join(lambda: Path(f"{address}.{number}").read_text(encoding="utf-8"), known, answer)


if __name__ == "__main__":
    prepare()
    address, release, *secrets = sys.argv[1:]
    for number, secret in enumerate(secrets):
        if os.fork() == 0:
            be(number, address, release, secret)
            os._exit(0)
    for _ in secrets:
        os.wait()
