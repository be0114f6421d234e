"""Networks in a scoring process: each loaded once, its weights shared with the other processes of the executor.

ONNX Runtime packs weights into the layout of its kernels, in memory of its own, so every process would hold its own
copy, packed again at each start. Here the first process that loads a large network stores the optimised graph with the
packed weights beside the network's file, and all processes map that file into memory: one copy a node, at no cost in
speed, and the later processes start at once. The stored graph is for this machine's instruction set, and lies in the
application's own folder, where Spark removes it.
"""

import hashlib
import logging
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sparkwright.errors import InputError, ModelError

try:
    import fcntl
except ImportError:  # Windows: nothing to agree by on who stores a network, hence nothing is shared
    fcntl = None  # type: ignore[assignment]

__all__ = ["MAX_BYTES", "SHARED_BYTES", "OnnxSession", "Runtime", "load"]

log = logging.getLogger(__name__)

MAX_BYTES = 1 << 30
"""Networks' files that a process keeps loaded, in bytes; the one used longest ago goes first, the last one stays."""

SHARED_BYTES = 8 << 20
"""Networks with larger files are stored optimised and mapped into memory; smaller ones load in no time as they are."""

_GRAPH, _WEIGHTS = "graph.onnx", "weights.bin"


class Runtime(Protocol):
    """A loaded network; several threads may call it at once."""

    def __call__(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return the output, float32 of shape (rows, …), for inputs of shape (rows, …)."""


_loaded: "OrderedDict[tuple[str, int, str], tuple[Runtime, int]]" = OrderedDict()  # with the bytes of its file
_lock = threading.Lock()


class OnnxSession:
    """A network in ONNX Runtime on the CPU; call it with a batch. Several threads may call it at once.

    Args:
        graph: The ONNX file, or its bytes.
        threads: Threads inside one call. The engine's own threads each run a micro-batch, with one thread inside.
        optimised: The file is what `store` wrote: it is optimised already.
        store: Folder to write the optimised graph and its packed weights to.

    Raises:
        ModelError: ONNX Runtime cannot load the graph.
        InputError: the network has several inputs.
    """

    def __init__(
        self, graph: Path | bytes, threads: int = 1, *, optimised: bool = False, store: Path | None = None
    ) -> None:
        levels = onnxruntime.GraphOptimizationLevel
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if optimised else levels.ORT_ENABLE_ALL
        # Patterns of memory are a thread's own, and kept beside what the first call took: twice the memory, no speed.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        # A thread that spins between operators takes the core from one that decodes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if store is not None:
            options.optimized_model_filepath = str(store / _GRAPH)
            for name, value in (
                ("optimized_model_external_initializers_file_name", _WEIGHTS),
                ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
                ("save_external_prepacked_constant_initializers", "1"),
            ):
                options.add_session_config_entry(f"session.{name}", value)
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

    def __call__(self, x: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return the output, float32 of shape (rows, …), for inputs of shape (rows, …)."""
        y: NDArray[np.float32] = self._session.run([self._output], {self._input: x})[0]
        return y.astype(np.float32, copy=False)


def load(path: Path, sha256: str, threads: int = 1, device: str = "cpu") -> Runtime:
    """Return the network of a file, loaded at most once in this process.

    Args:
        path: Where the file lies now; two paths with the same `sha256` are one network. What ends in ``.safetensors``
            runs in torch, all else in ONNX Runtime.
        sha256: Of the file's bytes, in hexadecimal.
        threads: Threads inside one call.
        device: Where a network of torch runs: ``cpu``, ``cuda:0`` …

    Raises:
        ModelError: the file's bytes are not those, or they cannot be loaded.
    """
    key = (sha256, threads, device)
    with _lock:  # held while loading: two tasks of one process must not load the same network twice
        if key not in _loaded:
            _loaded[key] = _open(path, sha256, threads, device), path.stat().st_size
            while len(_loaded) > 1 and sum(size for _, size in _loaded.values()) > MAX_BYTES:
                _loaded.popitem(last=False)
        _loaded.move_to_end(key)
        return _loaded[key][0]


def _open(path: Path, sha256: str, threads: int, device: str) -> Runtime:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ModelError(f"{path} was altered or cut short: its SHA-256 is not {sha256}.")
    if path.suffix == ".safetensors":
        from sparkwright.scoring.forward.torch_runtime import TorchSession

        return TorchSession.load(path, device=device, threads=threads)
    if fcntl is not None and path.stat().st_size > SHARED_BYTES:
        try:
            return OnnxSession(_stored(path, sha256) / _GRAPH, threads, optimised=True)
        except (OSError, ModelError) as error:  # the disk is full, or read-only: the network itself will do
            log.warning("%s is not shared between processes: %s", path.name, error)
    return OnnxSession(path, threads)


def _stored(path: Path, sha256: str) -> Path:
    """Return the folder with the optimised graph, beside the network's file; one process of those here makes it."""
    folder = path.with_name(f"{sha256[:16]}-optimised")
    with _only_one(path.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            unfinished = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{folder.name}-"))
            try:
                OnnxSession(path, store=unfinished)
                unfinished.rename(folder)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    return folder


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Let one process of this machine at a time into the body; the kernel lets go for one that dies."""
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
