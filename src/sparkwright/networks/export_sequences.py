"""From layers of sequences to ONNX nodes that take any number of steps.

ONNX's own LSTM and GRU know the sequences' lengths and read each from its own end; they order their gates otherwise.
https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from sparkwright.errors import InputError
from sparkwright.networks.export import GraphWriter
from sparkwright.networks.network import INPUT
from sparkwright.networks.sequences import UNPOOLED, Convolution, Embed, Mask, Pool, Recurrent

__all__ = ["append_sequence"]

# Places of ONNX's gates among torch's: LSTM i, o, f, c of i, f, c, o; GRU z, r, h of r, z, h.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}


@dataclass(frozen=True)
class _Steps:
    """Tensors of a graph that hold a batch of sequences.

    Attributes:
        x: Values, float32 of shape (B, T, C).
        there: 1 where a step belongs to its sequence, else 0: float32 of shape (B, T, 1).
    """

    x: str
    there: str


def append_sequence(model: onnx.ModelProto, layers: nn.Sequential) -> str:
    """Append the nodes of a network of sequences behind a graph's input, in place; dropout is left out.

    Returns:
        The tensor that holds the network's output.

    Raises:
        InputError: The network gives sequences: it is cut before they are pooled.
    """
    writer = GraphWriter(model.graph, "sequence")
    tensor, steps = INPUT, None
    for name, layer in layers.named_children():
        if isinstance(layer, Mask):
            steps = _mask(writer, name, tensor, len(model.graph.input[0].type.tensor_type.shape.dim))
        elif steps is not None and type(layer) in _WRITERS:
            steps = _WRITERS[type(layer)](writer, name, steps, layer)
        elif steps is not None and isinstance(layer, Pool):
            tensor, steps = _pool(writer, name, steps, layer), None
        elif isinstance(layer, nn.Linear):
            weights = [writer.weight(f"{name}.{kind}", _arrays(layer, name)) for kind in ("weight", "bias")]
            tensor = writer.node("Gemm", name, [tensor, *weights], transB=1)
        elif not isinstance(layer, nn.Dropout):
            raise InputError(f"Layer `{name}` ({type(layer).__name__}) cannot stand in a network of sequences.")
    if steps is not None:
        raise InputError(UNPOOLED)
    return tensor


def _mask(writer: GraphWriter, name: str, given: str, dimensions: int) -> _Steps:
    if dimensions == 2:
        given = writer.node("Unsqueeze", name, [given, writer.integers([2])])
    missing = writer.node("IsNaN", name, [given])
    x = writer.node("Where", name, [missing, writer.constant(f"{name}.zero", 0.0), given])
    first = writer.node("Slice", name, [missing, *map(writer.integers, ([0], [1], [2]))])
    return _Steps(x, writer.node("Cast", name, [writer.node("Not", name, [first])], to=TensorProto.FLOAT))


def _embed(writer: GraphWriter, name: str, steps: _Steps, layer: Embed) -> _Steps:
    numbers = writer.node("Squeeze", name, [steps.x, writer.integers([2])])
    numbers = writer.node("Cast", name, [numbers], to=TensorProto.INT64)
    vectors = writer.node("Gather", name, [writer.weight(f"{name}.weight", _arrays(layer, name)), numbers], axis=0)
    return _masked(writer, name, replace(steps, x=vectors))


def _recurrent(writer: GraphWriter, name: str, steps: _Steps, layer: Recurrent) -> _Steps:
    cells = [cell for cell in (layer.ahead, layer.back) if cell is not None]
    kind = layer.ahead.mode
    stacked = {f"{name}.{part}": _stacked(cells, part, kind) for part in ("w", "r", "b")}
    weights = [writer.weight(part, stacked) for part in stacked]
    lengths = writer.node("Cast", name, [_lengths(writer, name, steps)], to=TensorProto.INT32)
    lengths = writer.node("Reshape", name, [lengths, writer.integers([-1])])
    x_TBC = writer.node("Transpose", name, [steps.x], perm=[1, 0, 2])
    options: dict[str, Any] = {"hidden_size": layer.ahead.hidden_size}
    options["direction"] = "bidirectional" if len(cells) == 2 else "forward"
    if kind == "GRU":
        options["linear_before_reset"] = 1  # as torch has it
    y = writer.node(kind, name, [x_TBC, *weights, lengths], **options)  # steps, directions, batch, values
    y = writer.node("Transpose", name, [y], perm=[2, 0, 1, 3])
    y_BTC = writer.node("Reshape", name, [y, writer.integers([0, 0, -1])])
    return _masked(writer, name, replace(steps, x=y_BTC))


def _convolution(writer: GraphWriter, name: str, steps: _Steps, layer: Convolution) -> _Steps:
    weights = _arrays(layer, name)
    x_BCT = writer.node("Transpose", name, [steps.x], perm=[0, 2, 1])
    parts = []
    kinds = ["weight"] if layer.bn is not None else ["weight", "bias"]
    for place, size in enumerate(layer.kernels):
        own = [writer.weight(f"{name}.convs.{place}.{kind}", weights) for kind in kinds]
        parts.append(writer.node("Conv", name, [x_BCT, *own], pads=[(size - 1) // 2, size // 2]))
    y_BCT = writer.node("Concat", name, parts, axis=1) if len(parts) > 1 else parts[0]
    if layer.bn is not None:
        kinds = ["weight", "bias", "running_mean", "running_var"]
        own = [writer.weight(f"{name}.bn.{kind}", weights) for kind in kinds]
        y_BCT = writer.node("BatchNormalization", name, [y_BCT, *own], epsilon=layer.bn.eps)
    y_BTC = writer.node("Transpose", name, [writer.node("Relu", name, [y_BCT])], perm=[0, 2, 1])
    steps = _masked(writer, name, replace(steps, x=y_BTC))
    if not layer.halve:
        return steps
    y_BCT = writer.node("Transpose", name, [steps.x], perm=[0, 2, 1])
    y_BCT = writer.node("MaxPool", name, [y_BCT], kernel_shape=[2], strides=[2], ceil_mode=1)
    there = writer.node("Slice", name, [steps.there, *map(writer.integers, ([0], [2**62], [1], [2]))])
    return _Steps(writer.node("Transpose", name, [y_BCT], perm=[0, 2, 1]), there)


_WRITERS: dict[type[nn.Module], Callable[[GraphWriter, str, _Steps, Any], _Steps]] = {
    Convolution: _convolution,
    Embed: _embed,
    Recurrent: _recurrent,
}


def _pool(writer: GraphWriter, name: str, steps: _Steps, layer: Pool) -> str:
    axis = writer.integers([1])
    if layer.how == "last":
        # A step is the last of its sequence if it belongs to it and the next one does not.
        behind = writer.node("Slice", name, [steps.there, *map(writer.integers, ([1], [2**62], [1]))])
        behind = writer.node("Pad", name, [behind, writer.integers([0, 0, 0, 0, 1, 0])])
        last = writer.node("Mul", name, [steps.x, writer.node("Sub", name, [steps.there, behind])])
        last_BC = writer.node("ReduceSum", name, [last, axis], keepdims=0)
        first_BC = writer.node("Gather", name, [steps.x, _zero(writer)], axis=1)
        limits = ([0], [layer.ahead], [1]), ([layer.ahead], [2**62], [1])
        parts = (
            writer.node("Slice", name, [part, *map(writer.integers, limit)])
            for part, limit in zip((last_BC, first_BC), limits, strict=True)
        )
        return writer.node("Concat", name, list(parts), axis=1)
    means = maxima = ""
    if layer.how != "max":
        sums = writer.node("ReduceSum", name, [steps.x, axis], keepdims=0)
        means = writer.node("Div", name, [sums, _lengths(writer, name, steps)])
    if layer.how != "mean":
        there = writer.node("Cast", name, [steps.there], to=TensorProto.BOOL)
        below = writer.node("Where", name, [there, steps.x, writer.constant(f"{name}.below", -np.inf)])
        maxima = writer.node("ReduceMax", name, [below, axis], keepdims=0)
    return writer.node("Concat", name, [means, maxima], axis=1) if means and maxima else means or maxima


def _lengths(writer: GraphWriter, name: str, steps: _Steps) -> str:
    """Return how many steps each sequence has, at least 1: float32 of shape (B, 1)."""
    lengths = writer.node("ReduceSum", name, [steps.there, writer.integers([1])], keepdims=0)
    return writer.node("Max", name, [lengths, writer.constant(f"{name}.one", 1.0)])


def _masked(writer: GraphWriter, name: str, steps: _Steps) -> _Steps:
    return replace(steps, x=writer.node("Mul", name, [steps.x, steps.there]))


def _zero(writer: GraphWriter) -> str:
    """Return the scalar 0 as an index."""
    return writer.node("Squeeze", "pool", [writer.integers([0])])


def _arrays(layer: nn.Module, name: str) -> Mapping[str, NDArray[Any]]:
    return {f"{name}.{key}": value.detach().numpy() for key, value in layer.state_dict().items()}


def _stacked(cells: Sequence[nn.RNNBase], part: str, kind: str) -> NDArray[Any]:
    """Return one of ONNX's weights, the directions first: w and r matrices, b both biases, one behind the other."""

    def ordered(value: Tensor) -> Tensor:
        gates = value.detach().chunk(len(_GATES[kind]))
        return torch.cat([gates[place] for place in _GATES[kind]])

    names = {"w": ["weight_ih_l0"], "r": ["weight_hh_l0"], "b": ["bias_ih_l0", "bias_hh_l0"]}[part]
    made = [torch.cat([ordered(getattr(cell, name)) for name in names]) for cell in cells]
    stacked: NDArray[Any] = torch.stack(made).numpy()
    return stacked
