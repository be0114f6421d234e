"""What a scoring process will take, known before the job: a clear refusal or smaller batches, never a killed process.

A Spark task has two processes: Spark's worker, which supervises, and the scoring process. The latter's memory is

- Python and the libraries;
- the weights, packed for the kernels: one copy for all processes of an executor where they are mapped from a file;
- for each thread, the tensors of the network that live at the same time, for a micro-batch;
- the queues: micro-batches that are being decoded or wait, photos being decoded, Arrow batches in and out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkwright.errors import EnvironmentNotReadyError
from sparkwright.scoring.process.engine import crew_size
from sparkwright.session import Room, executor_cores, python_room, threads_per_task

if TYPE_CHECKING:
    import onnx
    from pyspark.sql import SparkSession

    from sparkwright.scoring.forward.graph import Graph

__all__ = ["Estimate", "activation_bytes", "check_memory", "estimate"]

_MIB = 1 << 20

# Measured (benchmarks/memory.py): resident memory after the imports, without pages shared with others.
_PROCESS, _TORCH = 90 * _MIB, 185 * _MIB
_WORKER = 85 * _MIB

_ARROW_BATCHES = 24 * _MIB  # in flight between worker and scoring process, in each of the two
_DECODED = 16 * _MIB  # a photo of some 4 million pixels, while it is decoded and resized

# Kernels want some space of their own, and the allocator rounds up.
_SLACK = 1.15

# A process that packs the weights holds them in the file's form, in the graph's and in the kernels': measured.
_PACKING = 2.75


@dataclass(frozen=True)
class Estimate:
    """Memory of a scoring process, in bytes.

    Attributes:
        libraries: Python and what it imports.
        weights: The network's.
        shared: Whether the processes of an executor have one copy of the weights.
        activations: Of all threads.
        queues: Micro-batches and photos being decoded.
        arrow: Rows on their way in and out.
        batch_size: Photos in a micro-batch.
    """

    libraries: int
    weights: int
    shared: bool
    activations: int
    queues: int
    arrow: int
    batch_size: int

    @property
    def running(self) -> int:
        """Of one process while it scores."""
        return self.libraries + self.weights + self.activations + self.queues + self.arrow

    @property
    def packing(self) -> int:
        """Of a process that loads the weights and packs them for the kernels."""
        return self.libraries + int(_PACKING * self.weights)

    @property
    def peak(self) -> int:
        """Of one process, whatever it does."""
        return max(self.running, self.packing)

    def executor(self, tasks: int) -> int:
        """Of all Python processes of an executor with so many tasks at once."""
        workers = tasks * (_WORKER + self.arrow)
        if not self.shared:
            return workers + tasks * self.peak
        # One process packs while the others wait; then all of them map its result.
        waiting = self.packing + (tasks - 1) * self.libraries
        return workers + max(waiting, tasks * self.running - (tasks - 1) * self.weights)

    def __str__(self) -> str:
        parts = {
            "libraries": self.libraries,
            "weights": self.weights,
            f"network's tensors at batch size {self.batch_size}": self.activations,
            "queues": self.queues + self.arrow,
        }
        return ", ".join(f"{name} {_mib(size)}" for name, size in parts.items())


def estimate(
    graph: "Graph",
    batch_size: int,
    threads: int = 1,
    cores: int | None = None,
    *,
    torch: bool = False,
    ahead_bytes: int = 0,
) -> Estimate:
    """Estimate the memory of a scoring process for photos.

    Args:
        graph: The network.
        batch_size: Photos in a micro-batch.
        threads: Of the task.
        cores: Of the executor; where there are more than threads, a process has spare ones.
        torch: Whether torch runs the network.
        ahead_bytes: Of photos that are fetched before they are decoded.
    """
    from sparkwright.scoring.forward.runtime import SHARED_BYTES

    crew = crew_size(threads, cores)
    if graph.sha256 not in _per_row:
        _per_row[graph.sha256] = activation_bytes(graph.onnx, graph.input_shape)
    inputs = 4 * math.prod(graph.input_shape) * batch_size
    return Estimate(
        libraries=_PROCESS + (_TORCH if torch else 0),
        weights=len(graph.onnx),
        shared=not torch and len(graph.onnx) > SHARED_BYTES,
        activations=int(_SLACK * crew * batch_size * _per_row[graph.sha256]),
        queues=(crew + 2) * inputs + crew * _DECODED + ahead_bytes,
        arrow=_ARROW_BATCHES,
        batch_size=batch_size,
    )


_per_row: dict[str, int] = {}  # SHA-256 of a graph → `activation_bytes`


def activation_bytes(graph: bytes, input_shape: Sequence[int] | None = None) -> int:
    """Return the bytes a row of the tensors of an ONNX graph that live at the same time, at most.

    Shapes are inferred, nothing is computed; a tensor whose shape is not found counts nothing.

    Args:
        graph: The file.
        input_shape: Of the largest row, where the graph leaves it open.
    """
    import onnx

    model = onnx.load_model_from_string(graph)
    if input_shape is not None:
        for dimension, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], input_shape, strict=False):
            dimension.dim_value = size
    sizes = _sizes(model)
    nodes = sizes.nodes
    last: dict[str, int] = {}  # place of the node that reads a tensor last
    for place, node in enumerate(nodes):
        last |= dict.fromkeys(node.input, place)
    alive = sum(sizes.bytes.get(name, 0) for name in sizes.inputs)
    most = alive
    for place, node in enumerate(nodes):
        alive += sum(sizes.bytes.get(name, 0) for name in node.output)
        most = max(most, alive)
        # What no later node reads ends here: inputs, and outputs that nobody wants.
        done = {name for name in (*node.input, *node.output) if last.get(name, place) <= place}
        alive -= sum(sizes.bytes.get(name, 0) for name in done)
    return most


@dataclass(frozen=True)
class _Sizes:
    nodes: "list[onnx.NodeProto]"
    inputs: list[str]
    bytes: dict[str, int]


def _sizes(model: "onnx.ModelProto") -> _Sizes:
    """Infer the sizes of a graph's tensors for one row, weights left out; the model is changed."""
    import onnx

    graph = model.graph
    given = graph.input[0]
    given.type.tensor_type.shape.dim[0].dim_value = 1
    large = [tensor for tensor in graph.initializer if math.prod(tensor.dims) > 1024]
    for tensor in large:  # inference copies the model: without its weights
        graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    small = [tensor for tensor in graph.initializer if math.prod(tensor.dims) <= 1024]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in small]
    graph.ClearField("initializer")
    graph.initializer.extend(copies)
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model).graph
    weights = {tensor.name for tensor in (*large, *small)}
    sizes = {}
    for value in (*graph.value_info, *graph.output, *graph.input):
        kind = value.type.tensor_type
        if value.name not in weights and kind.elem_type:
            width = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
            sizes[value.name] = width * math.prod(max(1, dim.dim_value) for dim in kind.shape.dim)
    return _Sizes(list(graph.node), [given.name], sizes)


def check_memory(
    spark: "SparkSession", graph: "Graph", batch_size: int, *, torch: bool = False, ahead_bytes: int = 0
) -> int:
    """Return the batch size that fits into memory: the one given, or half, a quarter … of it.

    Args:
        spark: The session that will score.
        graph: The network, which reads photos.
        batch_size: The one wanted.
        torch: Whether torch runs the network.
        ahead_bytes: Of photos that a scoring process fetches before they are decoded.

    Raises:
        EnvironmentNotReadyError: not even single photos fit; says what takes how much, and which setting gives more.
    """
    room = python_room(spark)
    if room is None:
        return batch_size
    threads, cores = threads_per_task(spark), executor_cores(spark)
    while True:
        needed = estimate(graph, batch_size, threads, cores, torch=torch, ahead_bytes=ahead_bytes)
        if needed.executor(room.tasks) <= room.size:
            return batch_size
        if batch_size == 1:
            raise EnvironmentNotReadyError(_refusal(graph, needed, room))
        batch_size //= 2


def _refusal(graph: "Graph", needed: Estimate, room: Room) -> str:
    tasks = f"{room.tasks} tasks" if room.tasks > 1 else "one task"
    return (
        f"Scoring with `{graph.name}` needs about {_mib(needed.executor(room.tasks))} for the Python processes of "
        f"{tasks} ({needed}; and Spark's worker), and there are {_mib(room.size)} ({room.told}). What helps: "
        f"{room.setting}; or a smaller network."
    )


def _mib(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB"
