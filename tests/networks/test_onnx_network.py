import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparkwright.errors import InputError, ModelError, NameUnknownError
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.mlp import mlp
from sparkwright.networks.network import Network, from_spec
from sparkwright.networks.onnx_network import OnnxNetwork
from sparkwright.networks.preprocessing import Preprocessing

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
    "fc.w": RNG.standard_normal((2, 4)).astype(np.float32),
    "fc.b": np.zeros(2, np.float32),
}


def graph(
    batch: str | int = "n", size: int | str = 8, kind: int = TensorProto.FLOAT, inputs: int = 1, shape: bool = False
) -> onnx.ModelProto:
    """Convolution, ReLU, average, linear layer; `shape` reshapes to a fixed batch of one."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["maps"], "/conv/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["output"], "/conv/act/Relu"),  # a name that ours must not clash with
        helper.make_node("GlobalAveragePool", ["output"], ["means"], "pooling"),
        helper.make_node("Reshape", ["means", "to"], ["flat"])
        if shape
        else helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.w", "fc.b"], ["logits"], "/fc/Gemm", transB=1),
    ]
    initialisers = [numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()]
    initialisers.append(numpy_helper.from_array(np.array([1, 4]), "to"))
    values = [helper.make_tensor_value_info("image", kind, [batch, 3, size, size])]
    values += [helper.make_tensor_value_info(f"other{n}", kind, [batch]) for n in range(inputs - 1)]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])
    model = helper.make_model(
        helper.make_graph(nodes, "g", values, [output], initialisers), opset_imports=[helper.make_opsetid("", 13)]
    )
    model.ir_version = 8
    return model


@pytest.fixture(scope="module")
def network() -> OnnxNetwork:
    return OnnxNetwork.from_model("net", graph())


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return RNG.standard_normal((5, 3, 8, 8)).astype(np.float32)


def run(network: OnnxNetwork, x: np.ndarray) -> np.ndarray:
    return OnnxNetwork.from_bytes("again", network.to_onnx()).forward(x)


def test_graph_knows_its_shapes_layers_and_feature_layer(network: OnnxNetwork) -> None:
    assert network.input_shape == (3, 8, 8)
    assert network.output_shape == (2,)
    assert network.layer == "logits"
    assert network.feature_layer == "flat"
    assert {"conv", "conv.act", "/conv/Conv", "pooling", "maps", "flat", "logits"} <= set(network.layers)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        ("/conv/Conv", (4, 8, 8)),
        ("maps", (4, 8, 8)),
        ("conv", (4, 8, 8)),
        ("conv.act", (4, 8, 8)),
        ("output", (2,)),  # always the end, whatever the file calls so
        ("pooling", (4, 1, 1)),
        ("flat", (4,)),
    ],
)
def test_cut_by_node_tensor_or_scope(network: OnnxNetwork, x: np.ndarray, layer: str, shape: tuple[int, ...]) -> None:
    cut = network.cut(layer)
    assert cut.output_shape == shape
    assert np.array_equal(run(cut, x), cut.forward(x))


def test_scope_ends_with_its_last_node(network: OnnxNetwork, x: np.ndarray) -> None:
    assert network.cut("conv").forward(x).min() == 0  # behind the ReLU
    assert network.cut("/conv/Conv").forward(x).min() < 0


def test_cut_drops_the_weights_behind_it(network: OnnxNetwork) -> None:
    kept = onnx.load_model_from_string(network.cut("pooling").graph)
    assert [tensor.name for tensor in kept.graph.initializer] == ["w"]
    assert network.cut("logits") is network


def test_unknown_layer_is_explained(network: OnnxNetwork) -> None:
    with pytest.raises(NameUnknownError, match=r"`net` has no layer `poling`\. Did you mean `pooling`\?"):
        network.cut("poling")


def test_head_is_merged_into_the_graph(network: OnnxNetwork, x: np.ndarray) -> None:
    head = mlp(4, 3, [6], "tanh", mean=np.ones(4), scale=np.full(4, 2.0))
    whole = network.cut("flat").with_head(head)
    expected = head.forward(network.cut("flat").forward(x))
    assert np.abs(whole.forward(x) - expected).max() < 1e-6
    assert np.abs(run(whole, x) - expected).max() < 1e-6
    assert "head.hidden1" in whole.layers


def test_head_on_maps_flattens_them(network: OnnxNetwork, x: np.ndarray) -> None:
    whole = network.cut("conv").new_head(["a", "b", "c"])
    assert whole.forward(x).shape == (5, 3)
    assert whole.classes == ("a", "b", "c")


def test_new_head_replaces_the_classifier(network: OnnxNetwork) -> None:
    whole = network.new_head(7)
    assert whole.feature_layer == "flat"
    assert whole.output_shape == (7,)
    assert "/fc/Gemm" not in whole.layers


def test_head_of_another_width_is_refused(network: OnnxNetwork) -> None:
    with pytest.raises(InputError, match=r"takes inputs of shape \(5,\); the network `net` cut at `flat` gives \(4,\)"):
        network.cut("flat").with_head(mlp(5, 2))
    with pytest.raises(InputError, match="must be of torch"):
        network.with_head(network)


def test_spec_and_graph_rebuild_the_network(network: OnnxNetwork, x: np.ndarray) -> None:
    cut = network.cut("flat").with_preprocessing(Preprocessing((8, 8)))
    again = from_spec(cut.to_spec(), onnx=cut.graph)
    assert np.array_equal(again.forward(x), cut.forward(x))
    assert again.fingerprint() == cut.fingerprint()
    assert (again.layer, again.preprocessing, again.weights()) == (cut.layer, cut.preprocessing, {})
    with pytest.raises(ModelError, match="needs its ONNX graph"):
        from_spec(cut.to_spec())


def test_fingerprint_tells_layers_and_preprocessing_apart(network: OnnxNetwork) -> None:
    networks = [network, network.cut("flat"), network.cut("pooling"), network.with_preprocessing(Preprocessing((8, 8)))]
    assert len({one.fingerprint() for one in networks}) == 4


@pytest.mark.parametrize("layer", ["flat", "conv", "output"])
def test_layers_cut_out_of_a_merged_file_are_the_same_network(network: OnnxNetwork, x: np.ndarray, layer: str) -> None:
    cut = network.cut(layer)
    merged = OnnxNetwork.from_spec({**cut.to_spec(), "layer": "output"}, cut.with_head(mlp_for(cut)).to_onnx())
    again = merged.cut(cut.layer)
    assert again.fingerprint() == cut.fingerprint()
    assert np.array_equal(again.forward(x), cut.forward(x))


def mlp_for(network: OnnxNetwork) -> Network:
    return mlp(int(np.prod(network.output_shape)), 2)


def test_exported_tensors_have_fixed_names(network: OnnxNetwork) -> None:
    for one in (network, network.cut("conv"), network.cut("flat"), network.cut("flat").new_head(2)):
        model = onnx.load_model_from_string(one.to_onnx())
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.input] == ["input"]
        assert [value.name for value in model.graph.output] == ["output"]


def test_freezing_a_graph_is_a_named_error(network: OnnxNetwork) -> None:
    with pytest.raises(InputError, match=r"is an ONNX graph, which runs as it is.*nothing can be frozen until `conv`"):
        network.freeze("conv")
    with pytest.raises(InputError, match=r"is an ONNX graph.*cannot be trained"):
        network.unfreeze()


def test_fixed_batch_is_made_dynamic_where_the_graph_allows(x: np.ndarray) -> None:
    assert OnnxNetwork.from_model("net", graph(batch=1)).forward(x).shape == (5, 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (graph(batch=1, shape=True), "`net` only takes batches of 1. Export it with a dynamic first dimension"),
        (graph(kind=TensorProto.UINT8), "The input `image` of `net` must be float32; it is UINT8"),
        (graph(inputs=2), "must have one input; `net` has 2: image, other0"),
        (graph(size="side"), r"must have a batch and fixed sizes behind it; it has \['n', 3, 'side', 'side'\]"),
    ],
)
def test_graph_that_cannot_be_used_is_explained(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(InputError, match=message):
        OnnxNetwork.from_model("net", model)


def test_damaged_file_is_explained(tmp_path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(graph().SerializeToString()[:300])
    with pytest.raises(InputError, match=r"net\.onnx is not an ONNX file, or it is damaged"):
        load_network(file)


def test_file_of_images_needs_a_preprocessing(tmp_path) -> None:
    file = tmp_path / "net.onnx"
    onnx.save(graph(), file)
    with pytest.raises(InputError, match=r"does not say how images become its input.*one of the presets imagenet"):
        load_network(file)
    network = load_network(tmp_path, preprocessing="imagenet", classes=["a", "b"])
    assert network.preprocessing is not None
    assert network.preprocessing.shape == network.input_shape
    assert network.classes == ("a", "b")


def test_batch_of_another_shape_is_explained(network: OnnxNetwork) -> None:
    with pytest.raises(InputError, match=r"`net` fails on a batch of shape \(1, 3, 9\)"):
        network.forward(np.zeros((1, 3, 9), np.float32))
