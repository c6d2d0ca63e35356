"""The kernel that executes notebooks: this interpreter, with the kit's folders as they are here."""

from __future__ import annotations

import sys
from typing import ClassVar

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from .. import paths


class ThisInterpreter(AsyncKernelManager):
    """Starts the running Python, whatever else this machine has under the name `python3`."""

    folders: ClassVar[dict[str, str]] = {}

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            # A dollar sign would be taken for a variable.
            env={name: path.replace("$", "$$") for name, path in self.folders.items()},
        )


def kernel_manager() -> type[ThisInterpreter]:
    """A manager whose kernels have the folders that the variables name here and now.

    A kernel works in the project's folder, and papermill goes there to start it: a relative
    `FEDOBP_RUNS` would mean another folder then.
    """

    class Here(ThisInterpreter):
        folders = paths.environment()

    return Here
