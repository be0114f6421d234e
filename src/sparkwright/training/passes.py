"""How a replica's layers compute in training: layout in memory, precision, kernels, parts of a batch."""

from collections.abc import Callable, Iterator
from operator import itemgetter

import torch
from torch import Tensor, nn

from sparkwright.training.config import TrainingConfig
from sparkwright.training.rows.readers import Inputs, forward

__all__ = ["Passes"]


class Passes:
    """Forward passes of a module.

    Args:
        module: May be laid out anew, so make this before views of its parameters.
        config: Of the training.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig) -> None:
        self._channels_last = config.channels_last
        if config.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._module: nn.Module = torch.compile(module) if config.compile else module  # type: ignore[assignment]
        self._bfloat16 = config.precision == "bfloat16"
        self._parts = config.accumulate

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the outputs for a batch, float32."""
        if self._channels_last:
            inputs = _each(inputs, _channels_last)
        if not self._bfloat16:
            return forward(self._module, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            return forward(self._module, inputs).float()

    def parts(self, inputs: Inputs, rows: int) -> Iterator[tuple[slice, Inputs]]:
        """Yield the stretches that a batch of `rows` is passed through in, as even as can be, with their inputs."""
        count = min(self._parts, rows)
        if count == 1:
            yield slice(rows), inputs
            return
        for number in range(count):
            part = slice(number * rows // count, (number + 1) * rows // count)
            yield part, _each(inputs, itemgetter(part))


def _each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Return inputs with each tensor changed."""
    if isinstance(inputs, dict):
        return {name: change(tensor) for name, tensor in inputs.items()}
    return tuple(map(change, inputs)) if isinstance(inputs, tuple) else change(inputs)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
