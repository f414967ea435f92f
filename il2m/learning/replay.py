"""Training steps on a GPU, launched whole: one by one, a small network's kernels take longer to launch than to work."""

import math
import warnings
from collections.abc import Callable

import torch

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # images, labels -> loss, a tensor on the device
_WARM_UP = 3  # steps before the capture, in which libraries choose their kernels and allocate


class ReplayedStep:
    """``step`` as a CUDA graph. One that waits for the device can't be captured: it is run as it is, with a warning."""

    def __init__(self, step: Step) -> None:
        self._step, self._calls, self._rate = step, 0, None

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, rate: float) -> torch.Tensor:
        """The same step and loss, which the next call overwrites. rate: the learning rate; a graph holds it, and is
        captured anew for another one. Batches of another shape than the first are not replayed."""
        if not self._calls:
            self._inputs = images.clone(), labels.clone()
        self._calls += 1
        if self._calls <= _WARM_UP or labels.shape != self._inputs[1].shape:
            return self._step(images, labels)
        if rate != self._rate:
            self._rate, self._graph = rate, torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(self._graph):
                    self._loss = self._step(*self._inputs)
            except RuntimeError:
                warnings.warn("no CUDA graph can hold this network: it is trained step by step, slower.", stacklevel=2)
                self._calls = -math.inf
                return self._step(images, labels)
        for kept, given in zip(self._inputs, (images, labels), strict=True):
            kept.copy_(given)
        self._graph.replay()
        return self._loss
