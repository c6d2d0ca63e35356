"""One file per method; importing a file registers its method."""

from . import fedavg, fedobp, fedper, local_only, majority_class  # noqa: F401
from .base import METHODS, Federation, Method, find_method, make_settings, register

__all__ = ["METHODS", "Federation", "Method", "find_method", "make_settings", "register"]
