"""Reproduction kit for *FedOBP: Federated Optimal Brain Personalization*.

from fedobp_lib import RunConfig, run
result = run(RunConfig(method="fedobp", dataset="digits"))
result.history, result.accuracy("before")
"""

from .config import RunConfig
from .errors import UserError
from .methods import Method, register
from .runs.execution import run
from .runs.presets import grid
from .runs.store import RunResult
from .runs.sweeps import run_all, sweep

__version__ = "0.1.0"
__all__ = [
    "Method", "RunConfig", "RunResult", "UserError", "grid", "register", "run", "run_all", "sweep",
]  # fmt: skip
