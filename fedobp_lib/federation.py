"""From a configuration to a federation: who has which data, the model, and what trains it."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm as NORMALIZES_BATCHES

from .config import ResolvedConfig
from .data.clients import INIT, ClientData, stream
from .data.images import ImageData
from .data.partition import Partition, dirichlet_partition
from .errors import UserError
from .methods import ON_DEVICE, Adversaries, Aggregator, Attack, BankPlace, Federation
from .models.networks import build_model
from .models.parameters import ParameterLayout
from .paper.protocols import PROTOCOLS
from .paper.published import table5_quantile
from .training.backends import make_backend
from .training.trainer import Backend, LocalSettings, Trainer


def build_federation(
    config: ResolvedConfig,
    data: ImageData,
    device: torch.device | str = "cpu",
    partition: Partition | None = None,
    backend: str | Backend = "auto",
    place: BankPlace = ON_DEVICE,
) -> Federation:
    """Everything that a method works with, built from the run's settings.

    Args:
        config: the run.
        data: its data set.
        device: where to compute.
        partition: the split; None: the one `config` describes.
        backend: `loop`, `batched` or `auto`: loop on a CPU, batched on a GPU; or one that is
            there already.
        place: where the rows of clients are kept.

    Raises:
        UserError: the configuration does not fit the data, or the back-end is unknown.
    """
    device = torch.device(device)
    if partition is None:
        partition = make_partition(config, data)
    mean, std = data.normalization(config.pixels)
    images, labels = data.on(device)
    adversaries = make_adversaries(config, partition.clients)
    if adversaries is not None:
        labels = adversaries.labels(labels, partition, data.classes)
    client_data = ClientData(
        images, labels, partition, mean, std, data.classes, device, config.seed
    )
    return assemble(config, client_data, data.shape, backend, place)


def assemble(
    config: ResolvedConfig,
    client_data: ClientData,
    shape: tuple[int, int, int],
    backend: str | Backend = "auto",
    place: BankPlace = ON_DEVICE,
) -> Federation:
    """As `build_federation`, of clients' data that are there, on their device.

    Args:
        config: the run.
        client_data: of all clients, or of those that one process knows of.
        shape: (height, width, channels) of an image.
        backend, place: see `build_federation`.

    Raises:
        UserError: the configuration does not fit the data, or the back-end is unknown.
    """
    device = client_data.device
    init_seed = int(stream(config.seed, INIT).integers(2**63))
    model = build_model(config.model, shape, client_data.classes, init_seed, config.pretrained)
    _check_batches(config, model)
    layout = ParameterLayout.of(model)
    initial = layout.flatten(model).to(device)
    if isinstance(backend, str):
        backend = make_backend(backend, model, layout, device, config.precision)
    # Memory is laid out for whole batches. The bound is the same for all splits of a data set, as
    # only batches of one size are trained together.
    batch_size = min(config.batch_size, len(client_data.labels))
    settings = LocalSettings(config.local_epochs, batch_size, config.lr, config.momentum)
    return Federation(
        initial=initial,
        layout=layout,
        data=client_data,
        trainer=Trainer(backend, client_data, settings),
        quantile_rule=PROTOCOLS[config.protocol]["quantile_rule"],
        quantile=table5_quantile(config.dataset, config.alpha),
        rounds=config.rounds,
        place=place,
        aggregator=Aggregator.parse(config.aggregator),
        adversaries=make_adversaries(config, client_data.clients),
        delays=config.delays,
        cohort=config.cohort_size,
    )


def make_adversaries(config: ResolvedConfig, clients: int) -> Adversaries | None:
    """The Byzantine clients of a run, the same whenever they are asked for."""
    attack = Attack.parse(config.byzantine)
    return None if attack is None else Adversaries(attack, clients, config.seed)


def _check_batches(config: ResolvedConfig, model: torch.nn.Module) -> None:
    if config.batch_size == 1 and any(isinstance(m, NORMALIZES_BATCHES) for m in model.modules()):
        raise UserError(
            f"batch_size must be at least 2 for {config.model!r}: batch normalization has no "
            "deviation of a single sample"
        )


def make_partition(config: ResolvedConfig, data: ImageData) -> Partition:
    """The split that a configuration asks for, drawn or from a file.

    Raises:
        UserError: it does not fit the data set.
    """
    if config.split is not None:
        return config.split.check(len(data.labels), f"partition file {config.partition!r}")
    return dirichlet_partition(
        data.labels,
        config.clients,
        config.alpha,
        config.partition_seed,
        config.test_share,
        config.min_samples,
    )
