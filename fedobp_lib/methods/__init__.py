"""One file per method; importing a file registers its method."""

from ..training.tasks import Task
from . import (  # noqa: F401
    apfl,
    fedala,
    fedavg,
    feddpa,
    fedobp,
    fedper,
    fedrep,
    fedselect,
    fedspa,
    ffgg,
    floco,
    flute,
    lg_fedavg,
    local_only,
    majority_class,
    pfedfda,
)
from .adversaries import Adversaries, Attack
from .aggregators import Aggregator
from .banks import ON_DEVICE, PLACES, Bank, BankPlace
from .base import (
    METHODS,
    Federation,
    Method,
    added,
    added_settings,
    find_method,
    identity,
    make_method,
    make_settings,
    register,
)
from .messages import Message
from .options import averages, check_options, in_parts
from .traffic import scores_on_server

__all__ = [
    "METHODS",
    "ON_DEVICE",
    "PLACES",
    "Adversaries",
    "Aggregator",
    "Attack",
    "Bank",
    "BankPlace",
    "Federation",
    "Message",
    "Method",
    "Task",
    "added",
    "added_settings",
    "averages",
    "check_options",
    "find_method",
    "identity",
    "in_parts",
    "make_method",
    "make_settings",
    "register",
    "scores_on_server",
]
