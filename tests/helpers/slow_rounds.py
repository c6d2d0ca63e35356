"""Rounds beside a slow, literal version: one client at a time, plain loops."""

import numpy as np
import torch

COHORTS = [[0, 2], [1, 2], [0, 3], [2, 3]]


def slow_average(federation, cohort, uploads):
    """Eq. 2, parameter by parameter in numpy, weighted by training samples."""
    sizes = [len(federation.data.partition.train(i)) for i in cohort]
    total = np.zeros(len(uploads[0]))
    for size, upload in zip(sizes, uploads, strict=True):
        total += size / sum(sizes) * upload.double().numpy()
    return torch.from_numpy(total).float()


def check_rounds(federation, method, merge_one, averages=True):
    """Play rounds beside a slow bookkeeping of what each client and the server hold.

    `merge_one(local, global_)` is the paper's merge for one client.
    """
    global_ = federation.initial.clone()
    local = {i: federation.initial.clone() for i in range(federation.data.clients)}
    for number, cohort in enumerate(COHORTS, 1):
        clients = torch.tensor(cohort)
        method.round = number
        start, _ = method.start(clients)
        expected = torch.stack([merge_one(local[i], global_) for i in cohort])
        assert torch.equal(start, expected)
        trained = method.train(start, clients)
        for k, i in enumerate(cohort):
            alone = federation.trainer.fit(expected[k][None], [i], number)[0]
            assert torch.equal(trained[k], alone)
            local[i] = alone
        method.finish(clients, start, trained)
        if averages:
            average = slow_average(federation, cohort, [local[i] for i in cohort])
            there = method.travels  # of other columns the server has no news
            ours, theirs = method.global_params[there], average[there]
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
            global_ = method.global_params.clone()
    return local
