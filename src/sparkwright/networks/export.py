"""From torch's layers to one ONNX file that ONNX Runtime runs at full speed.

Layers of the catalogue go through ``torch.onnx.export`` once and are cached on disk, because it takes seconds. Heads
are written node by node, which takes milliseconds and fits behind any ONNX graph.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sparkwright.errors import InputError
from sparkwright.networks.network import INPUT, OUTPUT, home, write_atomically

if TYPE_CHECKING:
    from sparkwright.networks.torch_network import Part, TorchNetwork

__all__ = ["GraphWriter", "append_head", "export_torch", "rename_inputs", "rename_tensor", "set_output"]

log = logging.getLogger(__name__)

_OPSET = 18
_IR = 10  # what ONNX Runtime 1.20 reads
SEQUENCE_BUILDS = ("recurrent", "cnn1d")
"""Architectures of sequences, which are written node by node too: torch would fix the number of steps."""

_CACHE_VERSION = 1  # of the files in the cache: raise it when this module writes other graphs


def export_torch(network: "TorchNetwork") -> bytes:
    """Return a torch network as an ONNX file; see `Network.to_onnx`."""
    heads = network.parts[1:]
    if network.parts[0].build == "mlp":
        model = _empty_model(["batch", *network.input_shape])
        heads = network.parts
    elif network.parts[0].build in SEQUENCE_BUILDS:
        from sparkwright.networks.export_sequences import append_sequence

        model = _empty_model(["batch", "steps", *network.input_shape[1:]])
        set_output(model, append_sequence(model, network.without_heads().module), network.output_shape)
    else:
        model = onnx.load_model_from_string(_export_base(network.without_heads()))
    tensor = model.graph.output[0].name
    for part in heads:
        tensor = append_head(model, tensor, part, network.part_weights(part))
    set_output(model, tensor, network.output_shape)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def append_head(model: onnx.ModelProto, tensor: str, part: "Part", weights: Mapping[str, NDArray[Any]]) -> str:
    """Append a head's nodes behind `tensor` of a graph, in place; dropout is left out.

    Returns:
        The tensor that holds the head's output.

    Raises:
        InputError: The head is neither an MLP nor a flatten layer.
    """
    if part.build not in ("mlp", "flatten"):
        raise InputError(f"Only heads made by `mlp` or `new_head` become ONNX nodes; got `{part.build}`.")
    writer = GraphWriter(model.graph, part.child or "mlp")
    if part.build == "flatten":
        return writer.node("Flatten", "flatten", [tensor], axis=1)
    if "standardise.mean" in weights:
        mean, scale = (writer.weight(f"standardise.{name}", weights) for name in ("mean", "scale"))
        tensor = writer.node("Sub", "standardise", [tensor, mean])
        tensor = writer.node("Mul", "standardise", [tensor, scale])
    names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    for name in sorted(names, key=lambda name: (name == "output", len(name), name)):
        matrix, bias = (writer.weight(f"{name}.{kind}", weights) for kind in ("weight", "bias"))
        tensor = writer.node("Gemm", name, [tensor, matrix, bias], transB=1)
        activation = name.replace("hidden", "act")
        if name != "output" and not _ends_before(part.layer, activation):
            tensor = writer.activation(part.options["activation"], activation, tensor)
    return tensor


def _ends_before(layer: str | None, activation: str) -> bool:
    """Whether a head that is cut at `layer` ends just before this activation."""
    return layer == activation.replace("act", "hidden")


class GraphWriter:
    """Adds nodes and weights to a graph under one scope, so that a layer's nodes carry the layer's name.

    Args:
        graph: Changed in place.
        scope: What all names of nodes and weights begin with.
    """

    def __init__(self, graph: onnx.GraphProto, scope: str) -> None:
        self._graph = graph
        self._scope = scope

    def weight(self, name: str, weights: Mapping[str, NDArray[Any]]) -> str:
        """Add one of `weights`, as float32; return its tensor."""
        full = f"{self._scope}.{name}"
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weights[name], np.float32), full))
        return full

    def constant(self, name: str, value: float) -> str:
        """Add a scalar, as float32; return its tensor."""
        return self.weight(name, {name: np.array(value, np.float32)})

    def integers(self, values: Sequence[int]) -> str:
        """Add numbers that say where or along which axes, int64; return their tensor."""
        name = f"{self._scope}.{'_'.join(map(str, values))}"
        if name not in {tensor.name for tensor in self._graph.initializer}:
            self._graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def node(self, kind: str, layer: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output; return that."""
        name = f"/{self._scope}/{layer}/{kind}"
        names = {node.name for node in self._graph.node}
        while name in names:
            name += "_"
        output = f"{name}_output_0"
        self._graph.node.append(helper.make_node(kind, list(inputs), [output], name, **attributes))
        return output

    def activation(self, kind: str, layer: str, tensor: str) -> str:
        """Add an activation in operators that every opset since 9 has."""
        if kind == "silu":
            return self.node("Mul", layer, [tensor, self.node("Sigmoid", layer, [tensor])])
        if kind == "gelu":  # x/2 (1 + erf(x/√2)), https://arxiv.org/abs/1606.08415
            scaled = self.node("Mul", layer, [tensor, self.constant(f"{layer}.root", 1 / math.sqrt(2))])
            one = self.constant(f"{layer}.one", 1.0)
            grown = self.node("Add", layer, [self.node("Erf", layer, [scaled]), one])
            half = self.node("Mul", layer, [tensor, self.constant(f"{layer}.half", 0.5)])
            return self.node("Mul", layer, [half, grown])
        operators: dict[str, tuple[str, dict[str, float]]] = {
            "relu": ("Relu", {}),
            "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
            "elu": ("Elu", {"alpha": 1.0}),
            "sigmoid": ("Sigmoid", {}),
            "tanh": ("Tanh", {}),
        }
        operator, attributes = operators[kind]
        return self.node(operator, layer, [tensor], **attributes)


def _empty_model(dimensions: Sequence[int | str]) -> onnx.ModelProto:
    """A graph that hands its input on."""
    value = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, list(dimensions))
    graph = helper.make_graph([], "sparkwright", [value], [value])
    return helper.make_model(
        graph, ir_version=_IR, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="sparkwright"
    )


def set_output(model: onnx.ModelProto, tensor: str, shape: Sequence[int]) -> None:
    """Make `tensor` the graph's only output, under the name that all our files have; in place."""
    if tensor == INPUT:
        model.graph.node.append(helper.make_node("Identity", [tensor], [OUTPUT], "/output"))
    else:
        rename_tensor(model.graph, tensor, OUTPUT)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", *shape]))


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor wherever it is used; one that has the new name already gets another; in place."""
    if old == new:
        return
    names = {name for node in graph.node for name in (*node.input, *node.output)}
    swaps = {old: new}
    if new in names:
        swaps[new] = next(name for n in range(1, 10**6) if (name := f"{new}_{n}") not in names)
    for node in graph.node:
        rename_inputs(node, swaps)
        node.output[:] = [swaps.get(name, name) for name in node.output]
    for values in (graph.input, graph.output, graph.value_info):
        for value in values:
            value.name = swaps.get(value.name, value.name)
    for tensor in graph.initializer:
        tensor.name = swaps.get(tensor.name, tensor.name)


def rename_inputs(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Let a node, and those of its inner graphs (If, Loop), read tensors under their new names; in place."""
    node.input[:] = [renamed.get(name, name) for name in node.input]
    for attribute in node.attribute:
        inner = (attribute.g,) if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        for graph in inner:
            for child in graph.node:
                rename_inputs(child, renamed)
            for value in graph.output:
                value.name = renamed.get(value.name, value.name)


def _export_base(network: "TorchNetwork") -> bytes:
    """Export through torch, or read the cached result."""
    path = _cache_path(network)
    with contextlib.suppress(OSError):
        return path.read_bytes()
    data = _run_torch_export(network)
    try:
        write_atomically(path, data)
    except OSError as error:
        log.debug("The ONNX export of `%s` was not cached: %s", network.name, error)
    return data


def _cache_path(network: "TorchNetwork") -> Path:
    import torch

    key = replace(network, preprocessing=None, precision=None).fingerprint()
    return home() / "onnx" / f"{key}-torch{torch.__version__.split('+')[0]}-{_CACHE_VERSION}.onnx"


def _run_torch_export(network: "TorchNetwork") -> bytes:
    import torch

    module = network.to_module().eval().requires_grad_(False)
    example = torch.zeros(2, *network.input_shape)
    with _quiet_export():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=_OPSET,
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned no program")
        model = program.model_proto
    for field in (model.graph, *model.graph.node):  # names, stack traces and paths of this machine
        del field.metadata_props[:]
        field.doc_string = ""
    del model.metadata_props[:]
    del model.graph.value_info[:]
    model.ir_version = _IR
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextlib.contextmanager
def _quiet_export() -> Iterator[None]:
    """Silence what the exporter says about itself: torchvision's absence, its own deprecations, and what it tries."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
