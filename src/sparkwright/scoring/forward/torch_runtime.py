"""Networks in torch: on GPUs, and in bfloat16 on CPUs, for whose kernels ONNX Runtime has no bfloat16.

A network reaches the executors as one safetensors file: its weights, and its description in the file's metadata. No
code is loaded from it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sparkwright.errors import EnvironmentNotReadyError, ModelError
from sparkwright.networks.network import from_spec
from sparkwright.networks.torch_network import Taps, TorchNetwork

__all__ = ["TorchSession", "pack_network", "unpack_network"]

_SPEC, _LAYERS = "network", "layers"


def pack_network(network: TorchNetwork, layers: Sequence[str] = ()) -> bytes:
    """Return a network, and the layers wanted of it (none for its output), as the bytes of one safetensors file."""
    return save(network.weights(), metadata={_SPEC: json.dumps(network.to_spec()), _LAYERS: json.dumps(list(layers))})


def unpack_network(path: Path) -> tuple[TorchNetwork, list[str]]:
    """Read what `pack_network` made: the network and the layers wanted of it.

    Raises:
        ModelError: the file is damaged, or holds no network.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            spec, layers = (json.loads((file.metadata() or {})[name]) for name in (_SPEC, _LAYERS))
            network = from_spec(spec, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{path} holds no network for torch: {error!r}.") from error
    assert isinstance(network, TorchNetwork)
    return network, layers


class TorchSession:
    """A network in torch; call it with a batch. Several threads may call it at once.

    A network of precision bfloat16 runs under autocast: convolutions and matrix products in bfloat16, sums and
    normalisations in float32. Photos lie in memory channels last, which is how the fast kernels want them.

    Args:
        network: What to run.
        device: ``cpu`` or ``cuda:N``; N counts modulo the GPUs that there are.
        layers: Those wanted instead of the network's output: flattened, behind one another.

    Raises:
        EnvironmentNotReadyError: a GPU is asked for, and torch sees none.
    """

    def __init__(self, network: TorchNetwork, device: str = "cpu", layers: Sequence[str] = ()) -> None:
        self._device = _find(device)
        self._reduced = network.precision is not None and network.precision.name == "bfloat16"
        self._layout = torch.channels_last if len(network.input_shape) == 3 else torch.contiguous_format
        module: Any = Taps(network, layers) if layers else network.to_module()  # torch's stubs lack `memory_format`
        self._module = module.eval().requires_grad_(False).to(device=self._device, memory_format=self._layout)

    @classmethod
    def load(cls, path: Path, *, device: str = "cpu", threads: int = 1) -> "TorchSession":
        """Open a file of `pack_network`'s; `threads` counts for all that torch does in this process.

        Raises:
            ModelError: the file is damaged, or holds no network.
            EnvironmentNotReadyError: a GPU is asked for, and torch sees none.
        """
        torch.set_num_threads(threads)
        network, layers = unpack_network(path)
        return cls(network, device, layers)

    def __call__(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return the output, float32 of shape (rows, …), for inputs of shape (rows, …)."""
        batch = torch.from_numpy(np.ascontiguousarray(x))
        if self._device.type == "cuda":
            batch = batch.pin_memory()  # else the copy to the GPU could not run beside the computation
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._reduced),
        ):
            batch = batch.to(self._device, non_blocking=True).contiguous(memory_format=self._layout)
            y: NDArray[np.float32] = self._module(batch).float().cpu().numpy()
        return y


def _find(device: str) -> torch.device:
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return torch.device(device)
    gpus = torch.cuda.device_count()
    if not gpus:
        raise EnvironmentNotReadyError(
            f"torch {torch.__version__} sees no GPU on this executor. Install a torch with CUDA there, and have Spark "
            "give each task a GPU (spark.task.resource.gpu.amount); or pass device='cpu'."
        )
    return torch.device("cuda", int(index or 0) % gpus)
