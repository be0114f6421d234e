"""The table of a network's layers: types, shapes, parameters, multiply-adds, memory."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sparkwright.networks.network import INPUT, Shape

if TYPE_CHECKING:
    import onnx
    import pandas as pd
    from torch import fx, nn

    from sparkwright.networks.onnx_network import OnnxNetwork
    from sparkwright.networks.torch_network import TorchNetwork

__all__ = ["Row", "Summary", "summarise_onnx", "summarise_torch"]

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: Its path in the network, or its node in the graph.
        type: Its class or operator.
        inputs: Names of the layers that it reads; ``input`` is the network's.
        in_features: Channels or features that it reads; None where it has no weights.
        out_features: Channels or features that it gives; None where it has no weights.
        output_shape: For a batch of one.
        parameters: Number of values that training learns (running statistics are not among them).
        parameter_shapes: Name of a parameter → its shape.
        frozen: Whether training leaves it as it is.
        multiply_adds: For one example: convolutions and matrix products; the rest is little beside them.
    """

    name: str
    type: str
    inputs: tuple[str, ...]
    in_features: int | None
    out_features: int | None
    output_shape: Shape
    parameters: int
    parameter_shapes: Mapping[str, Shape]
    frozen: bool
    multiply_adds: int


@dataclass(frozen=True)
class Summary:
    """All layers of a network and their totals; ``str(summary)`` is the table."""

    name: str
    input_shape: Shape
    rows: tuple[Row, ...]

    @cached_property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(row.parameters for row in self.rows)

    @cached_property
    def frozen_parameters(self) -> int:
        """Number of parameters that training leaves as they are."""
        return sum(row.parameters for row in self.rows if row.frozen)

    @property
    def trainable_parameters(self) -> int:
        """Number of parameters that training changes."""
        return self.parameters - self.frozen_parameters

    @cached_property
    def multiply_adds(self) -> int:
        """Multiply-adds for one example."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def parameter_bytes(self) -> int:
        """Memory of the parameters as float32."""
        return self.parameters * _FLOAT_BYTES

    @cached_property
    def activation_bytes(self) -> int:
        """Memory of all layers' outputs for one example as float32, as training holds them."""
        return sum(math.prod(row.output_shape) for row in self.rows) * _FLOAT_BYTES

    def to_dict(self) -> dict[str, Any]:
        """Return rows and totals as JSON holds them."""
        return {
            "name": self.name,
            "input_shape": list(self.input_shape),
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "frozen_parameters": self.frozen_parameters,
            "multiply_adds": self.multiply_adds,
            "parameter_bytes": self.parameter_bytes,
            "activation_bytes": self.activation_bytes,
            "layers": [
                {
                    **dataclasses.asdict(row),
                    "inputs": list(row.inputs),
                    "output_shape": list(row.output_shape),
                    "parameter_shapes": {name: list(shape) for name, shape in row.parameter_shapes.items()},
                }
                for row in self.rows
            ],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """Return a row a layer."""
        import pandas as pd

        columns = [field.name for field in dataclasses.fields(Row)]
        return pd.DataFrame([[getattr(row, name) for name in columns] for row in self.rows], columns=columns)

    def __str__(self) -> str:
        header = ("layer (type)", "in → out", "output shape", "parameters", "shapes", "inputs")
        body = [
            (
                f"{row.name} ({row.type})",
                f"{row.in_features} → {row.out_features}" if row.in_features is not None else "",
                _shape((1, *row.output_shape[1:])),
                f"{row.parameters:,}{' frozen' if row.frozen and row.parameters else ''}",
                " ".join(f"{name}:{_shape(shape)}" for name, shape in row.parameter_shapes.items()),
                ", ".join(row.inputs),
            )
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in (header, *body)) for column in range(len(header))]
        rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
        lines = [_aligned(line, widths) for line in (header, *body)]
        return "\n".join(
            [
                f"{self.name}, input {_shape((1, *self.input_shape))}",
                rule,
                lines[0],
                rule,
                *lines[1:],
                rule,
                *self._totals(),
            ]
        )

    def _totals(self) -> Iterator[str]:
        yield f"parameters      {self.parameters:,}"
        yield f"  trainable     {self.trainable_parameters:,}"
        yield f"  frozen        {self.frozen_parameters:,}"
        yield (
            f"memory          {self.parameter_bytes / 2**20:,.1f} MiB of parameters, "
            f"{self.activation_bytes / 2**20:,.1f} MiB of outputs for one example"
        )
        yield f"multiply-adds   {_count(self.multiply_adds)} for one example"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if column == 3 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def _count(value: int) -> str:
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= unit:
            return f"{value / unit:.2f} {letter}"
    return str(value)


def summarise_torch(network: "TorchNetwork") -> Summary:
    """Return the table of a torch network; computes shapes only, on the meta device, so that it costs nothing."""
    import torch
    from torch import fx

    if network.is_foreign:
        return Summary(network.name, network.input_shape, tuple(_called_layers(network)))
    module = network.skeleton()
    graph = _leaf_tracer().trace(module)
    shapes: dict[str, Shape] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            value = result[0] if isinstance(result, tuple) else result  # `Steps`, and what recurrent layers give
            if isinstance(value, torch.Tensor):
                shapes[n.name] = tuple(value.shape)
            return result

    with torch.no_grad():
        Recorder(fx.GraphModule(module, graph)).run(torch.empty((1, *network.input_shape), device="meta"))
    rows = [
        _torch_row(network, str(node.target), module.get_submodule(str(node.target)), shapes[node.name], _sources(node))
        for node in graph.nodes
        if node.op == "call_module"
    ]
    return Summary(network.name, network.input_shape, tuple(rows))


def _called_layers(network: "TorchNetwork") -> Iterator[Row]:
    """Yield the layers in the order in which an input of zeros meets them; not every factory's can be traced."""
    import torch

    module, shapes = network.to_module().eval(), dict[str, Shape]()

    def look_at(name: str, layer: "nn.Module") -> None:
        def note(_layer: "nn.Module", _inputs: Any, output: Any) -> None:
            shapes[name] = tuple(output.shape) if isinstance(output, torch.Tensor) else ()

        layer.register_forward_hook(note)

    for name, layer in module.named_modules():
        if next(layer.children(), None) is None:
            look_at(name, layer)
    with torch.no_grad():
        module(torch.zeros((1, *network.input_shape)))
    for name, shape in shapes.items():
        yield _torch_row(network, name, module.get_submodule(name), shape, ())


def _leaf_tracer() -> "fx.Tracer":
    """A tracer that looks into every block, down to layers without children."""
    from torch import fx, nn

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
            return next(m.children(), None) is None

    return Tracer()


def _sources(node: "fx.Node") -> tuple[str, ...]:
    """Names of the layers that a node reads, through additions and concatenations between them."""
    found: dict[str, None] = {}
    for source in node.all_input_nodes:
        if source.op == "call_module":
            found[str(source.target)] = None
        elif source.op == "placeholder":
            found["input"] = None
        else:
            found.update(dict.fromkeys(_sources(source)))
    return tuple(found)


def _torch_row(network: "TorchNetwork", name: str, layer: "nn.Module", shape: Shape, inputs: tuple[str, ...]) -> Row:
    from torch import nn

    parameters = {key: tuple(value.shape) for key, value in layer.named_parameters(recurse=False)}
    in_features: int | None = None
    out_features: int | None = None
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        in_features, out_features = layer.in_channels, layer.out_channels
    elif isinstance(layer, nn.Linear):
        in_features, out_features = layer.in_features, layer.out_features
    elif isinstance(layer, nn.RNNBase):
        in_features, out_features = layer.input_size, layer.hidden_size
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        in_features = out_features = layer.num_features
    # Every output value of a convolution or a linear layer sums over one filter, or one row of the matrix.
    per_value = 0
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
        per_value = math.prod(parameters["weight"][1:])
    elif isinstance(layer, nn.RNNBase):  # over a row of each matrix, for each gate
        per_value = sum(math.prod(shape) for shape in parameters.values() if len(shape) == 2) // layer.hidden_size
    return Row(
        name=name,
        type=type(layer).__name__,
        inputs=inputs,
        in_features=in_features,
        out_features=out_features,
        output_shape=shape,
        parameters=sum(map(math.prod, parameters.values())),
        parameter_shapes=parameters,
        frozen=any(name == frozen or name.startswith(f"{frozen}.") for frozen in network.frozen),
        multiply_adds=math.prod(shape) * per_value,
    )


def summarise_onnx(network: "OnnxNetwork") -> Summary:
    """Return the table of a graph's nodes on the way of the data; runs it once, for the shapes."""
    analysis = network.analysis
    nodes = analysis.data_nodes()
    tensors = [node.output[0] for node in nodes]
    shapes = dict(zip(tensors, analysis.shapes(tensors), strict=True))
    weights = {tensor.name: tuple(tensor.dims) for tensor in analysis.graph.initializer}
    made_by = {output: node.name or node.output[0] for node in nodes for output in node.output}
    rows = tuple(_onnx_row(node, shapes[node.output[0]], weights, made_by) for node in nodes)
    return Summary(network.name, network.input_shape, rows)


# Operator → which of its inputs are parameters that training would learn. Scales, zero points and statistics are not.
_ONNX_PARAMETERS = {
    "BatchNormalization": (1, 2),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
    "QLinearAdd": (3,),
    "QGemm": (3, 6),
}
_ONNX_CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger")
_ONNX_PRODUCTS = ("Gemm", "MatMul", "QLinearMatMul", "MatMulInteger", "QGemm")
_NOT_PARAMETERS = ("Reshape", "Clip", "Pad", "QuantizeLinear", "DequantizeLinear", "Unsqueeze", "Squeeze", "Slice")


def _onnx_row(node: "onnx.NodeProto", shape: Shape, weights: Mapping[str, Shape], made_by: Mapping[str, str]) -> Row:
    without = node.op_type in _NOT_PARAMETERS or node.op_type.startswith("QLinear")
    places = _ONNX_PARAMETERS.get(node.op_type, () if without else range(1, len(node.input)))
    parameters = {
        node.input[place]: weights[node.input[place]]
        for place in places
        if place < len(node.input) and node.input[place] in weights
    }
    matrix = next(iter(parameters.values()), ())
    in_features = out_features = None
    multiply_adds = 0
    if node.op_type in _ONNX_CONVOLUTIONS and matrix:
        groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
        in_features, out_features = matrix[1] * groups, matrix[0]
        multiply_adds = math.prod(shape) * math.prod(matrix[1:])
    elif node.op_type in _ONNX_PRODUCTS and matrix:
        out_features = shape[-1]
        in_features = math.prod(matrix) // out_features
        multiply_adds = math.prod(shape) * in_features
    return Row(
        name=node.name or node.output[0],
        type=node.op_type,
        inputs=tuple(
            dict.fromkeys(made_by.get(name, "input") for name in node.input if name in made_by or name == INPUT)
        ),
        in_features=in_features,
        out_features=out_features,
        output_shape=shape,
        parameters=sum(map(math.prod, parameters.values())),
        parameter_shapes=parameters,
        frozen=True,
        multiply_adds=multiply_adds,
    )
