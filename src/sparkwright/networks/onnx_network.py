"""Networks that came as an ONNX file: the graph runs as it is, in ONNX Runtime.

A layer is a tensor of the graph, named by itself, by the node that makes it, or by the scope of its node's name
(``/conv_dw_1/act/Clip`` → ``conv_dw_1.act``, ``conv_dw_1``). Freezing and training are errors: a graph has no layers of
torch.
"""

import hashlib
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sparkwright.errors import InputError, ModelError
from sparkwright.networks.export import append_head, rename_tensor, set_output
from sparkwright.networks.network import INPUT, OUTPUT, Network, Shape, find_layer, read_precision, spec_digest
from sparkwright.networks.preprocessing import AnyPreprocessing, as_preprocessing

if TYPE_CHECKING:
    from sparkwright.networks.summary import Summary

__all__ = ["OnnxNetwork"]

# Operators that hand values on, in another shape at most: a quantised tensor keeps its scale through them.
_RESHAPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "MaxPool", "Relu", "Clip")
_WEIGHTED = ("Gemm", "MatMul", "Conv", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "QGemm")


@dataclass(frozen=True, eq=False)
class OnnxNetwork(Network):
    """A network that is an ONNX graph; see `Network`. It is made by `load_network`."""

    graph: bytes

    @classmethod
    def from_bytes(
        cls,
        name: str,
        data: bytes,
        preprocessing: AnyPreprocessing | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> "OnnxNetwork":
        """Make a network of an ONNX file's bytes.

        Raises:
            InputError: Not an ONNX graph, several inputs, an input that is not float32, or a fixed batch size.
        """
        try:
            model = onnx.load_model_from_string(data)
        except DecodeError as error:
            raise InputError(f"`{name}` is not an ONNX file, or it is damaged: {error}.") from error
        return cls.from_model(name, model, preprocessing, classes)

    @classmethod
    def from_model(
        cls,
        name: str,
        model: onnx.ModelProto,
        preprocessing: AnyPreprocessing | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> "OnnxNetwork":
        """Make a network of a graph, which is changed: its input is renamed; see `from_bytes`."""
        source = _only_input(name, model.graph)
        if not model.graph.output:
            raise InputError(f"The graph `{name}` has no output.")
        output = model.graph.output[0]
        del model.graph.output[1:]
        rename_tensor(model.graph, source.name, INPUT)
        if OUTPUT in {tensor for node in model.graph.node for tensor in node.output}:
            rename_tensor(model.graph, OUTPUT, f"{OUTPUT}_0")  # what `to_onnx` calls the end, whatever it is
        dims = source.type.tensor_type.shape.dim
        fixed = dims[0].dim_value if dims[0].HasField("dim_value") else 0
        dims[0].dim_param = "batch"
        network = cls(
            name=name,
            preprocessing=None,
            classes=None,
            layer=output.name,
            feature_layer=None,
            frozen=frozenset(),
            graph=_serialised(model),
        )
        if fixed:
            network._check_batches(fixed)
        network = replace(network, feature_layer=_feature_layer(network.analysis, output.name))
        return network.with_preprocessing(preprocessing).with_classes(classes)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], graph: bytes) -> "OnnxNetwork":
        """Rebuild from `to_spec` and the graph; see `sparkwright.networks.network.from_spec`."""
        try:
            preprocessing = spec["preprocessing"]
            return cls(
                name=spec["name"],
                preprocessing=as_preprocessing(preprocessing) if preprocessing else None,
                classes=tuple(spec["classes"]) if spec["classes"] else None,
                layer=spec["layer"],
                feature_layer=spec["feature_layer"],
                frozen=frozenset(),
                precision=read_precision(spec),
                graph=graph,
            )
        except (KeyError, TypeError) as error:
            raise ModelError(f"The description of a network is damaged: {error!r}.") from error

    @cached_property
    def analysis(self) -> "_Graph":
        """The parsed graph."""
        return _Graph(onnx.load_model_from_string(self.graph))

    @cached_property
    def _session(self) -> "_Session":
        return _Session(self.name, self.graph)

    @property
    def input_shape(self) -> Shape:
        dims = self.analysis.graph.input[0].type.tensor_type.shape.dim[1:]
        return tuple(dim.dim_value for dim in dims)

    @cached_property
    def output_shape(self) -> Shape:
        return self.forward(np.zeros((1, *self.input_shape), np.float32)).shape[1:]

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.analysis.names)

    def cut(self, layer: str) -> "OnnxNetwork":
        names = {OUTPUT: self.layer, self.layer: self.layer, **self.analysis.names}
        tensor = names[find_layer(layer, names, {}, self.name)]
        if tensor == self.layer:
            return self
        return replace(self, graph=_cut(self.analysis, tensor), layer=tensor, classes=None, feature_layer=None)

    def with_head(self, head: Network) -> "OnnxNetwork":
        from sparkwright.networks.torch_network import TorchNetwork

        if not isinstance(head, TorchNetwork):
            raise InputError(f"The head on the graph `{self.name}` must be of torch (`mlp`); got `{head.name}`.")
        width = math.prod(self.output_shape)
        if head.input_shape != (width,):
            raise InputError(
                f"The head `{head.name}` takes inputs of shape {head.input_shape}; the network `{self.name}` cut at "
                f"`{self.layer}` gives {self.output_shape}."
            )
        model = onnx.load_model_from_string(self.graph)
        taken = {name for node in model.graph.node for name in node.output}
        child = next(name for name in ("head", *(f"head{n}" for n in range(2, 99))) if f"{name}_end" not in taken)
        tensor = model.graph.output[0].name
        if len(self.output_shape) != 1:
            model.graph.node.append(
                helper.make_node("Flatten", [tensor], [f"{child}_flat"], f"/{child}_flatten/Flatten")
            )
            tensor = f"{child}_flat"
        for part in head.parts:
            scoped = replace(part, child=".".join(filter(None, (child, part.child))))
            tensor = append_head(model, tensor, scoped, head.part_weights(part))
        end = f"{child}_end"
        model.graph.node.append(helper.make_node("Identity", [tensor], [end], f"/{child}/end"))
        del model.graph.output[:]
        shape: list[str | int] = ["batch", *head.output_shape]
        model.graph.output.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, shape))
        return replace(
            self,
            graph=_serialised(model),
            layer=end,
            classes=head.classes,
            feature_layer=self.layer,
        )

    def freeze(self, until: str | None = None) -> "OnnxNetwork":
        raise InputError(
            f"The network `{self.name}` is an ONNX graph, which runs as it is: its layers cannot be trained, so "
            f"nothing can be frozen{f' until `{until}`' if until else ''}. Cut it and train a head, or load the "
            "network from weights by its catalogue name."
        )

    def unfreeze(self, from_: str | None = None) -> "OnnxNetwork":
        raise InputError(
            f"The network `{self.name}` is an ONNX graph, which runs as it is: its layers cannot be trained"
            f"{f' from `{from_}` on' if from_ else ''}. Load the network from weights by its catalogue name "
            "to fine-tune it."
        )

    def summary(self) -> "Summary":
        from sparkwright.networks.summary import summarise_onnx

        return summarise_onnx(self)

    @cached_property
    def _digest(self) -> str:
        preprocessing = self.preprocessing.plain.to_dict() if self.preprocessing else None
        digest = hashlib.sha256(spec_digest({"kind": "onnx", "preprocessing": preprocessing}))
        # Not the file's bytes: the same layers cut out of a file with a head behind them are the same network.
        self.analysis.update(digest)
        return digest.hexdigest()

    def fingerprint(self) -> str:
        return self._digest

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        return self._session.run(np.ascontiguousarray(batch))

    def to_onnx(self) -> bytes:
        model = onnx.load_model_from_string(self.graph)
        set_output(model, model.graph.output[0].name, self.output_shape)
        return _serialised(model)

    def to_spec(self) -> dict[str, Any]:
        return {"kind": "onnx", **self._spec_head()}

    def weights(self) -> dict[str, NDArray[Any]]:
        return {}

    def _check_batches(self, fixed: int) -> None:
        """A graph with a fixed batch size may still take others, if no node has the size in it: try."""
        try:
            rows = [self.forward(np.zeros((size, *self.input_shape), np.float32)).shape[0] for size in (1, 3)]
        except InputError:
            rows = []
        if rows != [1, 3]:
            raise InputError(
                f"The graph `{self.name}` only takes batches of {fixed}. Export it with a dynamic first dimension."
            )


class _Session:
    """An ONNX Runtime session made on first use; safe to share between threads."""

    def __init__(self, name: str, graph: bytes) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exceptions have no public base
            raise InputError(f"ONNX Runtime cannot run the graph `{name}`: {error}") from error
        self._name = name
        self._lock = threading.Lock()

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        try:
            with self._lock:
                result: NDArray[np.float32] = self._session.run(None, {INPUT: batch})[0]
        except Exception as error:
            raise InputError(f"The graph `{self._name}` fails on a batch of shape {batch.shape}: {error}") from error
        return result


class _Graph:
    """A parsed graph: who makes which tensor, and which names stand for which."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.producer = {name: node for node in self.graph.node for name in node.output if name}
        self.initialisers = {tensor.name for tensor in self.graph.initializer}
        self.names = self._layer_names()

    def update(self, digest: "hashlib._Hash") -> None:
        """Feed all that determines the output into a digest: operators, nodes, weights."""
        digest.update(self.graph.output[0].name.encode())
        for opset in sorted(self.model.opset_import, key=lambda opset: str(opset.domain)):
            digest.update(f"{opset.domain} {opset.version}\n".encode())
        used = {name for node in self.graph.node for name in _needed(node)}
        weights = sorted((t for t in self.graph.initializer if t.name in used), key=lambda t: str(t.name))
        for message in (*self.graph.node, *weights):
            digest.update(message.SerializeToString(deterministic=True))

    def data_nodes(self) -> list[onnx.NodeProto]:
        """Nodes on the way of the data, in order; those that only compute shapes are left out."""
        reached = {INPUT}
        nodes = []
        for node in self.graph.node:
            # A node of data has data first (Reshape takes a shape second; a Concat of shapes has none).
            if node.op_type != "Shape" and reached.intersection(node.input):
                nodes.append(node)
                reached.update(node.output)
        return nodes

    def shapes(self, tensors: Sequence[str]) -> list[Shape]:
        """Shapes of tensors for a batch of one, found by running the graph: inference of shapes often gives up."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.graph.ClearField("output")
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
        dims = self.graph.input[0].type.tensor_type.shape.dim[1:]
        zeros = np.zeros((1, *(dim.dim_value for dim in dims)), np.float32)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(_serialised(model), options, providers=["CPUExecutionProvider"])
        return [tuple(value.shape) for value in session.run(list(tensors), {INPUT: zeros})]

    def _layer_names(self) -> dict[str, str]:
        """Name of a layer → tensor: scopes first, then nodes, then tensors; on the way of the data."""
        scopes: dict[str, str] = {}
        nodes: dict[str, str] = {}
        tensors: dict[str, str] = {}
        for node in self.data_nodes():
            tensor = node.output[0]
            tensors[tensor] = tensor
            if node.name:
                nodes[node.name] = tensor
                path = [part for part in node.name.split("/") if part][:-1]
                for depth in range(1, len(path) + 1):
                    scopes[".".join(path[:depth])] = tensor  # the scope's last node wins
        return {**scopes, **nodes, **{name: name for name in tensors if name not in scopes and name not in nodes}}


def _only_input(name: str, graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise InputError(
            f"A graph must have one input; `{name}` has {len(inputs)}: {', '.join(value.name for value in inputs)}."
        )
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise InputError(f"The input `{inputs[0].name}` of `{name}` must be float32; it is {kind}.")
    if len(tensor.shape.dim) < 2 or not all(dim.dim_value > 0 for dim in tensor.shape.dim[1:]):
        dims = [dim.dim_param or dim.dim_value or "?" for dim in tensor.shape.dim]
        raise InputError(
            f"The input `{inputs[0].name}` of `{name}` must have a batch and fixed sizes behind it; it has {dims}. "
            "Export the graph for one size of image."
        )
    value: onnx.ValueInfoProto = inputs[0]
    return value


def _serialised(model: onnx.ModelProto) -> bytes:
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _needed(node: onnx.NodeProto) -> Iterable[str]:
    """Names of all tensors that a node reads, those of its inner graphs (If, Loop) included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g,) if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
            for inner in graph.node:
                yield from _needed(inner)
            yield from (value.name for value in graph.output)


def _cut(analysis: _Graph, tensor: str) -> bytes:
    """Keep what `tensor` is computed from; a quantised tensor becomes float32."""
    model = onnx.ModelProto()
    model.CopyFrom(analysis.model)
    output = tensor
    if quantised := _quantisation(analysis, tensor):
        output = f"{tensor}_float32"
        if output not in analysis.producer:  # it is there in a graph that was cut here before
            node = helper.make_node("DequantizeLinear", [tensor, *quantised], [output], f"{tensor}_DequantizeLinear")
            model.graph.node.append(node)
    wanted, kept = {output}, []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(name for name in _needed(node) if name)
    nodes = list(reversed(kept))
    initialisers = [value for value in model.graph.initializer if value.name in wanted]
    inputs = [value for value in model.graph.input if value.name in wanted or value.name == INPUT]
    for field, values in (("node", nodes), ("initializer", initialisers), ("input", inputs), ("value_info", [])):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    model.graph.ClearField("quantization_annotation")
    model.graph.ClearField("output")
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    model.graph.output.append(result)
    return _serialised(model)


def _quantisation(analysis: _Graph, tensor: str) -> tuple[str, str] | None:
    """Names of the scale and the zero point of an 8 bit tensor; None for a tensor of floats."""
    node = analysis.producer.get(tensor)
    while node is not None and node.op_type in _RESHAPING:
        node = analysis.producer.get(node.input[0])
    if node is None:
        return None
    if node.op_type == "QuantizeLinear":
        return node.input[1], node.input[2]
    if node.op_type in ("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearConcat"):
        first = {"QLinearConcat": 0}.get(node.op_type, 6)
        return node.input[first], node.input[first + 1]
    if node.op_type.startswith("QLinear"):  # one input: x, its scale and zero point, then the result's
        return node.input[3], node.input[4]
    return None


def _feature_layer(analysis: _Graph, output: str) -> str | None:
    """Tensor that feeds the last layer with weights: the classifier."""
    tensor = output
    while (node := analysis.producer.get(tensor)) is not None:
        if node.op_type in _WEIGHTED:
            return node.input[0] if node.input[0] != INPUT else None
        if not node.input:
            return None
        tensor = node.input[0]
    return None
