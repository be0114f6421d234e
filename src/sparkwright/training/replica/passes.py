"""How a replica's layers compute in training: where, layout in memory, precision, kernels, parts of a batch."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path

import torch
from torch import Tensor, nn

from sparkwright.errors import InputError
from sparkwright.training.config import TrainingConfig
from sparkwright.training.replica.devices import device_of
from sparkwright.training.rows.readers import Inputs, forward

__all__ = ["Passes"]


class Passes:
    """Forward passes of a module. Inputs and outputs are in the host's memory, wherever it computes.

    Args:
        module: Comes to the device and may be laid out anew, so make this before views of its parameters.
        config: Of the training.
        index: Of the replica.

    Attributes:
        device: Where the module computes.

    Raises:
        InputError: There is no such device, or not what compiling needs.
    """

    def __init__(self, module: nn.Module, config: TrainingConfig, index: int) -> None:
        self.device = device_of(config.device, index)
        module.to(self.device)
        self._channels_last = config.channels_last
        if config.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._module = _compiled(module, self.device) if config.compile else module
        self._bfloat16 = config.precision == "bfloat16"
        self._parts = config.accumulate

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the outputs for a batch, float32; products are of the training's precision."""
        if not self._bfloat16:
            return self.exactly(inputs)
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.exactly(inputs).float()

    def exactly(self, inputs: Inputs) -> Tensor:
        """Return the outputs for a batch, with products in float32."""
        if self._channels_last:
            inputs = _each(inputs, _channels_last)
        if self.device.type != "cpu":
            inputs = _each(inputs, lambda tensor: tensor.to(self.device))
        return forward(self._module, inputs).cpu()

    def seed(self, seed: int) -> None:
        """Let the layers' random numbers begin anew."""
        # Of one device alone: `torch.manual_seed` would look for all others at each step.
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index].manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)

    def parts(self, inputs: Inputs, rows: int) -> Iterator[tuple[slice, Inputs]]:
        """Yield the stretches that a batch of `rows` is passed through in, as even as can be, with their inputs."""
        count = min(self._parts, rows)
        if count == 1:
            yield slice(rows), inputs
            return
        for number in range(count):
            part = slice(number * rows // count, (number + 1) * rows // count)
            yield part, _each(inputs, itemgetter(part))


def _compiled(module: nn.Module, device: torch.device) -> nn.Module:
    """Return what computes as the module does, by kernels that are made at the first pass."""
    if device.type == "cpu":
        _check_compiler()
    return torch.compile(module)  # type: ignore[return-value]


def _check_compiler() -> None:
    """Refuse what torch would fail on at the first step: a compiler, or the headers of Python, that are not there."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")  # torch looks for no other
    headers = Path(sysconfig.get_path("include"), "Python.h")
    missing = []
    if shutil.which(compiler) is None:
        missing.append(f"a C++ compiler, and there is no `{compiler}`: install g++, or name another in CXX")
    if not headers.exists():
        missing.append(f"Python's headers, and there is no {headers}: install python3-dev (on Fedora python3-devel)")
    if missing:
        raise InputError(f"`compile` needs, where replicas train, {'; and '.join(missing)}. Or leave `compile` out.")


def _each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Return inputs with each tensor changed."""
    if isinstance(inputs, dict):
        return {name: change(tensor) for name, tensor in inputs.items()}
    return tuple(map(change, inputs)) if isinstance(inputs, tuple) else change(inputs)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
