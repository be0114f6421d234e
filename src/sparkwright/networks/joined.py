"""Several layers of a network out of one pass: their graphs, joined into one.

Each layer's graph is what `Network.cut` exports. Two nodes that do the same to the same inputs are one node in the
result, so what the layers share (most of the network) is computed once. All outputs leave as one tensor, the layers'
flattened values behind one another, so that whatever runs a network with one output runs this.
"""

import hashlib
from collections.abc import Sequence
from math import prod
from typing import Any

import onnx
from onnx import TensorProto, helper

from sparkwright.errors import InputError
from sparkwright.networks.export import rename_inputs
from sparkwright.networks.network import INPUT, OUTPUT, Network

__all__ = ["export_layers"]


def export_layers(network: Network, layers: Sequence[str]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return one ONNX file for several layers, and where in a row of its output each layer's values are.

    Args:
        network: The network, not cut before any of the layers.
        layers: Their names, as `Network.cut` takes them, each once.

    Returns:
        The file: tensor ``input`` (any batch) → tensor ``output`` of shape (batch, all values); and for each layer the
        index of its first value and the one behind its last.

    Raises:
        NameUnknownError: no such layer.
        InputError: `layers` is empty.
    """
    joined: _Joined | None = None
    parts: list[str] = []
    places: dict[str, tuple[int, int]] = {}
    start = 0
    for layer in layers:
        cut = network.cut(layer)
        model = onnx.load_model_from_string(cut.to_onnx())
        joined = joined or _Joined(model)
        parts.append(joined.add(model, flat=len(cut.output_shape) == 1))
        places[layer] = (start, start + prod(cut.output_shape))
        start = places[layer][1]
    if joined is None:
        raise InputError("Name at least one layer; got none.")
    return joined.finish(parts, start), places


class _Joined:
    """A graph that grows by other graphs of the same input.

    Args:
        like: Gives the versions of operators and file format, and the input.
    """

    def __init__(self, like: onnx.ModelProto) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(like)
        for field in ("node", "initializer", "output", "value_info"):
            self._model.graph.ClearField(field)
        self._names = {INPUT, OUTPUT}  # taken
        self._known: dict[tuple[Any, ...], list[str]] = {}  # what is computed → the tensors that hold it

    def add(self, model: onnx.ModelProto, *, flat: bool) -> str:
        """Add what is new in a graph; return the tensor that holds its output, of shape (batch, values)."""
        renamed = {INPUT: INPUT}
        for weight in model.graph.initializer:
            name = weight.name  # which the call changes
            renamed[name] = self._put_weight(weight)
        for node in model.graph.node:
            outputs = self._put_node(node, renamed)
            renamed.update(zip(node.output, outputs, strict=True))
        tensor = renamed[model.graph.output[0].name]
        return tensor if flat else self._put_node(helper.make_node("Flatten", [tensor], ["flat"], axis=1), {})[0]

    def finish(self, tensors: Sequence[str], width: int) -> bytes:
        """Return the file that gives these tensors behind one another."""
        graph = self._model.graph
        graph.node.append(helper.make_node("Concat", list(tensors), [OUTPUT], "/joined/Concat", axis=1))
        graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", width]))
        data: bytes = self._model.SerializeToString(deterministic=True)
        return data

    def _put_weight(self, weight: onnx.TensorProto) -> str:
        name, weight.name = weight.name, ""
        key = ("weight", hashlib.sha256(weight.SerializeToString(deterministic=True)).digest())
        if key not in self._known:
            weight.name = self._free(name)
            self._known[key] = [weight.name]
            self._model.graph.initializer.append(weight)
        return self._known[key][0]

    def _put_node(self, node: onnx.NodeProto, renamed: dict[str, str]) -> list[str]:
        rename_inputs(node, renamed)
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        key = (node.op_type, node.domain, tuple(node.input), tuple(attributes), len(node.output))
        if key not in self._known:
            outputs = [self._free(name) if name else "" for name in node.output]
            self._known[key] = outputs
            new = onnx.NodeProto()
            new.CopyFrom(node)
            new.output[:] = outputs
            self._model.graph.node.append(new)
        return self._known[key]

    def _free(self, name: str) -> str:
        free, number = name, 0
        while free in self._names:
            number += 1
            free = f"{name}_{number}"
        self._names.add(free)
        return free
