"""Which runs are computed as one batch, and how many of them a GPU's memory holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..config import ResolvedConfig, RunConfig
from ..data.images import ImageData
from ..methods import Attack, BankPlace, Method, find_method
from ..models.networks import ImageModel, build_model
from ..models.parameters import ParameterLayout
from ..training.backends import make_backend
from ..training.gpu import load_linear_algebra
from ..training.trainer import Backend
from .bank_choice import choose_bank, few_clients
from .store import load_data

# More runs hardly save time, as the clients of that many already fill a GPU.
MOST = 16
# Of the free memory; the rest is for what is not counted, and for fragments.
USED = 0.8
# Rows of a client during a round: start, trained, personal; variables, velocity, direction, and
# its gradient twice.
ROWS = 8
# Samples of a client that are tested together.
TESTED = 256


def packs(
    configs: Sequence[RunConfig], size: int | Callable[[RunConfig], int]
) -> list[list[RunConfig]]:
    """Runs that can be computed as one batch.

    Runs of one method go together, as every kind of step is recorded once for all of them. What
    is left over of methods that train plain models, and so take the same steps, goes together
    too.

    Args:
        configs: the runs.
        size: how many go together at most, or a function that says how many runs like one.
    """

    def most(config: RunConfig) -> int:
        return size(config) if callable(size) else size

    methods: dict[tuple[tuple, str], list[RunConfig]] = {}
    for config in configs:
        methods.setdefault((_batch_key(config), config.method), []).append(config)
    groups: list[list[RunConfig]] = []
    rest: dict[Hashable, list[RunConfig]] = {}
    for (key, name), alike in methods.items():
        full = len(alike) - len(alike) % most(alike[0])
        groups += in_parts(alike[:full], most(alike[0]))
        if _trains_plain_models(name):
            rest.setdefault(key, []).extend(alike[full:])
        elif alike[full:]:
            groups.append(alike[full:])
    for left in rest.values():
        if left:
            groups += in_parts(left, min(map(most, left)))
    order = {id(config): number for number, config in enumerate(configs)}
    return sorted(groups, key=lambda group: order[id(group[0])])


def in_parts(runs: Sequence[RunConfig], most: int) -> list[list[RunConfig]]:
    """Runs in parts of at most so many, in order."""
    return [list(runs[start : start + most]) for start in range(0, len(runs), most)]


def fitting(
    device: torch.device, bank: str = "auto", share: float = 1.0
) -> Callable[[RunConfig], int]:
    """A function that says how many runs like one go into a GPU's free memory: 1 to `MOST`.

    Args:
        device: the GPU.
        bank: where the rows of clients are, see `bank_choice.choose_bank`.
        share: of its memory; the rest is for other processes.
    """
    free, total = torch.cuda.mem_get_info(device)
    if share < 1:
        free = min(free, int(share * total))
    known: dict[Hashable, int] = {}

    def most(config: RunConfig) -> int:
        key = (_batch_key(config), config.method, config.clients, config.participation)
        if key not in known:
            resolved = config.resolved(device)
            data = load_data(resolved.dataset)
            place = choose_bank(bank, config, device)
            known[key] = int(USED * (free - data.images.nbytes) / run_bytes(resolved, data, place))
        return max(1, min(MOST, known[key]))

    return most


def run_bytes(config: ResolvedConfig, data: ImageData, place: str = "device") -> int:
    """About how much of a GPU's memory a run takes on the batched back-end, in bytes.

    What the method keeps, the rows of a cohort during a round, the activations of a training step
    and those of a test. Methods keep so much a client and so much besides, so two tiny
    federations tell what a large one takes.

    Args:
        config: the run.
        data: its data set.
        place: where the rows of clients are; in main memory they take as much of the GPU's as on
            disk.
    """
    config = replace(config, pretrained=False)
    kind = BankPlace("device" if place == "device" else "host")
    (two, _), (three, moving) = (_tiny_bytes(config, data, clients, kind) for clients in (2, 3))
    kept = two + (config.clients - 2) * (three - two)
    layers = layer_bytes(build_model(config.model, data.shape, data.classes, 0), data.shape)
    trained = 2 * config.batch_size * sum(layers)  # forward, and its gradients
    return kept + config.cohort_size * (moving + trained + TESTED * max(layers))


def _tiny_bytes(
    config: ResolvedConfig, data: ImageData, clients: int, place: BankPlace
) -> tuple[int, int]:
    """What a method keeps with so few clients of a few images each, and a client's part of what
    moves in a round."""
    method = few_clients(config, data, clients, place)
    everyone = torch.arange(clients)
    task = method.task(method.start(everyone)[0], everyone)
    widest = max(task.variables[0].nbytes, method.federation.initial.nbytes)
    moving = clients * ROWS * widest + sum(tensor.nbytes for tensor in task.given.values())
    return sum(value.nbytes for value in method.state.values()), moving // clients


def layer_bytes(model: ImageModel, shape: tuple[int, int, int]) -> list[int]:
    """Bytes that each layer reads and writes for one image: its input, patches and output.

    Args:
        model: any.
        shape: (height, width, channels) of an image.
    """
    found: list[int] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        size = inputs[0].nbytes + output.nbytes
        if isinstance(layer, nn.Conv2d):
            patch = inputs[0].shape[1] * math.prod(layer.kernel_size)
            size += output[:, 0].nbytes * patch
        found.append(size)

    hooks = [m.register_forward_hook(note) for m in model.modules() if not list(m.children())]
    with torch.no_grad():
        model.eval()(torch.zeros(1, shape[2], *shape[:2]))
    for hook in hooks:
        hook.remove()
    return found


def shared_backend(config: RunConfig, device: torch.device) -> Backend:
    """A back-end for every run that fits into one batch with `config`."""
    resolved = config.resolved(device)
    data = load_data(resolved.dataset)
    model = build_model(resolved.model, data.shape, data.classes, 0, resolved.pretrained)
    layout = ParameterLayout.of(model)
    load_linear_algebra(device)
    return make_backend("auto", model, layout, device, resolved.precision)


def batch_of(config: RunConfig) -> tuple:
    """What runs have in common where one of them stands for the memory that others take."""
    return _batch_key(config), config.method


def _batch_key(config: RunConfig) -> tuple:
    resolved = config.resolved()
    names = ("dataset", "model", "local_epochs", "batch_size", "precision", "pixels")
    key = tuple(getattr(resolved, name) for name in names)
    attack = Attack.parse(resolved.byzantine)
    # A batch is of one set of labels, and in such a run those of some clients are others.
    relabelled = attack is not None and not attack.on_the_way
    return (*key, id(config)) if relabelled else key


def _trains_plain_models(name: str) -> bool:
    method = find_method(name)
    return method.task is Method.task and method.train is Method.train
