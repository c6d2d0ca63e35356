"""Work on threads."""

import threading

import torch

from fedobp_lib.training.parallel import map_on_threads


def test_a_single_thread_is_the_callers_own():
    before = torch.get_num_threads()
    seen = map_on_threads(
        lambda item: (item, threading.get_ident(), torch.get_num_threads()), range(3), 1
    )
    assert seen == [(item, threading.get_ident(), 1) for item in range(3)]
    assert torch.get_num_threads() == before
    others = map_on_threads(lambda _: threading.get_ident(), range(3), 2)
    assert threading.get_ident() not in others
