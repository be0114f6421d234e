"""Networks in ONNX Runtime, each loaded once in a process."""

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sparkwright.errors import InputError, ModelError

__all__ = ["MAX_NETWORKS", "OnnxSession", "load"]

MAX_NETWORKS = 4
"""Networks that a process keeps; the one used longest ago goes first."""

_loaded: "OrderedDict[tuple[str, int], OnnxSession]" = OrderedDict()
_lock = threading.Lock()


class OnnxSession:
    """A network in ONNX Runtime on the CPU; call it with a batch. Several threads may call it at once.

    Args:
        graph: The ONNX file, or its bytes.
        threads: Threads inside one call. The engine's own threads each run a micro-batch, with one thread inside.

    Raises:
        ModelError: ONNX Runtime cannot load the graph.
        InputError: the network has several inputs.
    """

    def __init__(self, graph: Path | bytes, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # A thread that spins between operators takes the core from one that decodes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        source = graph if isinstance(graph, bytes) else str(graph)
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base but this
            name = "The network" if isinstance(graph, bytes) else f"The network {graph}"
            raise ModelError(f"{name} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise InputError(f"A network to score with must have one input; this has {[i.name for i in inputs]}.")
        self._input = inputs[0].name
        self._output = self._session.get_outputs()[0].name
        self.shape: tuple[int | None, ...] = tuple(n if isinstance(n, int) else None for n in inputs[0].shape[1:])
        """Shape of one row's input; None where the graph leaves it open."""

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output, float32 of shape (rows, …), for inputs of shape (rows, …)."""
        y: NDArray[np.float32] = self._session.run([self._output], {self._input: x})[0]
        return y.astype(np.float32, copy=False)


def load(path: Path, sha256: str, threads: int = 1) -> OnnxSession:
    """Return the network of an ONNX file, loaded at most once in this process.

    Args:
        path: Where the file lies now; two paths with the same `sha256` are one network.
        sha256: Of the file's bytes, in hexadecimal.
        threads: Threads inside one call.

    Raises:
        ModelError: the file's bytes are not those, or ONNX Runtime cannot load them.
    """
    key = (sha256, threads)
    with _lock:  # held while loading: two tasks of one process must not load the same network twice
        if key not in _loaded:
            graph = path.read_bytes()
            if hashlib.sha256(graph).hexdigest() != sha256:
                raise ModelError(f"{path} was altered or cut short: its SHA-256 is not {sha256}.")
            _loaded[key] = OnnxSession(graph, threads)
            while len(_loaded) > MAX_NETWORKS:
                _loaded.popitem(last=False)
        _loaded.move_to_end(key)
        return _loaded[key]
