"""Steps recorded as CUDA graphs: hundreds of kernels start by one call.

What a step reads and writes has to stay at its place, which is `step_memory`'s work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

Steps = Callable[[], object]


class Recorder:
    """Records each kind of steps when it comes a second time, as many kinds come only once.

    Args:
        device: a GPU; the present one of whoever calls `run`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.recorded: dict[Hashable, Steps] = {}
        self._seen: set[Hashable] = set()
        self._pool: Any = None  # one for all graphs, as only one runs at a time
        self._side: Any = None

    def run(self, kind: Hashable, steps: Steps, changing: Sequence[Tensor]) -> bool:
        """Take the steps, replayed if they are recorded.

        Args:
            kind: steps of a kind do the same to the same memory.
            steps: does it; waits for nothing.
            changing: the tensors that outlive the steps and that they change.

        Returns:
            Whether recording works here. Where it fails, which is said once, steps were taken
            one by one.
        """
        if kind in self.recorded:
            self.recorded[kind]()
        elif kind not in self._seen:
            self._seen.add(kind)
            steps()
        else:
            saved = [tensor.clone() for tensor in changing]
            try:
                replay = self.record(steps)
            except RuntimeError as error:
                while isinstance(error.__context__, RuntimeError):  # the first is the cause
                    error = error.__context__
                reason = str(error).splitlines()[0]
                print(f"steps run without CUDA graphs, so slower: {reason}", file=sys.stderr)
                replay = None
            for tensor, before in zip(changing, saved, strict=True):
                tensor.copy_(before)
            if replay is None:
                steps()
                return False
            self.recorded[kind] = replay
            replay()
        return True

    def record(self, steps: Steps) -> Steps:
        """The steps as a graph. They are taken once before, and what they change is lost.

        Raises:
            RuntimeError: they cannot be recorded.
        """
        here = torch.cuda.current_stream(self.device)
        if self._side is None:
            self._side, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        # A recording that fails leaves its stream and device behind; these bring ours back.
        with torch.cuda.device(here.device), torch.cuda.stream(here):
            self._side.wait_stream(here)
            with torch.cuda.stream(self._side):
                steps()  # libraries choose their algorithms outside of the graph
            here.wait_stream(self._side)
            graph = torch.cuda.CUDAGraph()
            # Other threads, of packed runs, may go on: what they do is not recorded.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._side, capture_error_mode="thread_local"
            ):
                steps()
        return graph.replay
