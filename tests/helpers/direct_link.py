"""A server and its clients in one process: messages go as bytes, but nothing carries them away."""

from dataclasses import replace

import numpy as np

from fedobp_lib import RunConfig, paths
from fedobp_lib.data.datasets import load
from fedobp_lib.federate.client import Client
from fedobp_lib.federate.link import Fault
from fedobp_lib.federate.server import Server
from fedobp_lib.federate.shares import client_federation, server_federation, write_share
from fedobp_lib.federation import make_partition
from fedobp_lib.methods import make_method
from fedobp_lib.methods.messages import nbytes, pack, unpack
from helpers.literal import tiny_images

CLIENTS, COHORT = 5, 3


class Direct:
    """A link without a network, on which things can go wrong."""

    def __init__(self, clients):
        self.clients = clients
        self.gone = set()
        self.spoil = {}  # (ask, round, client): what becomes of the answer
        self.uploads = {}  # models by (round, client)
        self.sent = {}  # bytes of the tensors of `train`, there and back, likewise

    def here(self):
        return sorted(self.clients.keys() - self.gone)

    def ask(self, requests):
        return {client: self._one(client, request) for client, request in requests.items()}

    def wire(self):
        return {}

    def _one(self, client, request):
        if client in self.gone:
            return Fault("is gone")
        sent = replace(request, message=unpack(pack(request.message)))
        answer = unpack(pack(self.clients[client].answer(sent)))
        spoil = self.spoil.get((request.ask, request.round, client))
        if spoil == "die":
            self.gone.add(client)
            return Fault("is gone")
        if request.ask == "train":
            self.sent[request.round, client] = nbytes(sent.message), nbytes(answer)
            if "model" in answer:
                self.uploads[request.round, client] = answer["model"].clone()
        if spoil:
            spoil(answer)
        return answer


def tiny_config(method, **settings):
    """A run on a tiny data set, which is put where data sets are."""
    tiny, folder = tiny_images(), paths.data_dir()
    folder.mkdir(exist_ok=True)
    arrays = {"images": tiny.images, "labels": tiny.labels, "is_train": tiny.is_train}
    np.savez(folder / "tiny.npz", **arrays)
    return RunConfig(
        method=method, dataset="tiny", pixels="data", alpha=0.5, clients=CLIENTS,
        participation=COHORT / CLIENTS, rounds=5, local_epochs=1, batch_size=8, eval_every=2,
        settings=settings,
    )  # fmt: skip


def clients_of(config, folder):
    """The clients, each made from the file of its own samples."""
    config, data = config.resolved("cpu"), load(config.dataset)
    partition, made = make_partition(config, data), {}
    for client in range(CLIENTS):
        own = folder / str(client)
        own.mkdir(parents=True, exist_ok=True)
        write_share(own / "data.npz", client, config, data, partition)
        federation = client_federation(own / "data.npz", client, config)

        def make(federation=federation):
            return make_method(config.method, federation, config.settings)

        made[client] = Client(client, make, own)
    return made


def server_of(config, link, say=print):
    """A server that knows how many samples each client has."""
    config = config.resolved("cpu")
    samples = {
        number: (len(split.train(number)), len(split.test(number)))
        for number, split in (
            (number, client.method.federation.data.split) for number, client in link.clients.items()
        )
    }
    federation = server_federation(config, samples, (16, 16, 1), 3)
    return Server(config, make_method(config.method, federation, config.settings), link, say)
