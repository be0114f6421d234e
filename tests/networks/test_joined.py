from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sparkwright.errors import InputError, NameUnknownError
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.joined import export_layers
from sparkwright.networks.mlp import mlp
from sparkwright.networks.network import Network
from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.scoring.forward.runtime import OnnxSession


def operators(data: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(data).graph.node)


def photo_network() -> Network:
    return load_network("digits_cnn").new_head(["a", "b", "c"], hidden=[8], seed=3)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_layers_give_what_they_give_when_cut(kind: str) -> None:
    network = photo_network()
    if kind == "onnx":
        network = OnnxNetwork.from_bytes("graph", network.to_onnx())
    inner = [name for name in network.layers if "bn" in name or "act" in name]
    layers = [network.layer, inner[0], inner[-1]]
    data, places = export_layers(network, layers)
    x = np.random.default_rng(0).standard_normal((3, *network.input_shape)).astype(np.float32)
    y = OnnxSession(data)(x)
    assert y.shape == (3, max(stop for _, stop in places.values()))
    for layer, (start, stop) in places.items():
        assert np.allclose(y[:, start:stop], network.cut(layer).forward(x).reshape(3, -1), atol=1e-5)


def test_what_layers_share_is_there_once() -> None:
    network = photo_network()
    whole = network.to_onnx()
    joined, _ = export_layers(network, [network.feature_layer or "", network.layer, "head.hidden1"])
    added = operators(joined) - operators(whole)
    assert added["Concat"] == 1
    assert set(added) <= {"Concat", "Flatten"}
    assert len(joined) < len(whole) + 2000


def test_the_order_of_layers_changes_their_places_alone() -> None:
    network = mlp(4, 3, hidden=[5], seed=1)
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    data, places = export_layers(network, ["output", "hidden1"])
    assert places == {"output": (0, 3), "hidden1": (3, 8)}
    other, swapped = export_layers(network, ["hidden1", "output"])
    assert swapped == {"hidden1": (0, 5), "output": (5, 8)}
    first, second = OnnxSession(data)(x), OnnxSession(other)(x)
    assert np.array_equal(first[:, :3], second[:, 5:])


def test_nodes_with_graphs_inside_find_their_tensors() -> None:
    """An If whose branches read a tensor from outside, which bears another name in the joined graph."""
    branches = {
        name: helper.make_graph(
            [helper.make_node(kind, ["output", "output"], [f"{name}_result"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_result", TensorProto.FLOAT, None)],
        )
        for name, kind in (("then_branch", "Add"), ("else_branch", "Mul"))
    }
    nodes = [
        helper.make_node("Abs", ["input"], ["output"]),
        helper.make_node("If", ["yes"], ["chosen"], **branches),
    ]
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("input", "chosen")]
    model = helper.make_model(
        helper.make_graph(nodes, "branches", shapes[:1], shapes[1:], [yes]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    network = OnnxNetwork.from_bytes("branches", model.SerializeToString())
    data, _ = export_layers(network, [network.layer, next(name for name in network.layers if "output" in name)])
    assert OnnxSession(data)(np.array([[1.0, -3.0]], np.float32)).tolist() == [[2.0, 6.0, 1.0, 3.0]]


def test_unknown_layers_and_none_at_all_are_refused() -> None:
    with pytest.raises(NameUnknownError, match=r"has no layer `hiden1`\. Did you mean `hidden1`"):
        export_layers(mlp(4, 3, hidden=[5]), ["hiden1"])
    with pytest.raises(InputError, match="Name at least one layer; got none"):
        export_layers(mlp(4, 3), [])
