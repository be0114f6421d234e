import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from sparkwright.errors import InputError, ModelError, NameUnknownError
from sparkwright.networks.catalogue import load_network
from sparkwright.networks.mlp import ACTIVATIONS, mlp
from sparkwright.networks.network import Network, from_spec
from sparkwright.networks.torch_network import TorchNetwork

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def cnn() -> TorchNetwork:
    network = load_network("small_cnn", weights="random", input_shape=(1, 16, 16), outputs=3)
    assert isinstance(network, TorchNetwork)
    return network


def batch(network: Network, rows: int = 4) -> np.ndarray:
    return RNG.standard_normal((rows, *network.input_shape)).astype(np.float32)


def run_onnx(network: Network, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(network.to_onnx(), providers=["CPUExecutionProvider"])
    return session.run(["output"], {"input": x})[0]


def again(network: Network) -> Network:
    """Through JSON and weights, as a model's files hold a network."""
    return from_spec(json.loads(json.dumps(network.to_spec())), network.weights())


def test_layers_are_paths_and_aliases() -> None:
    vgg = load_network("vgg16", weights="random").cut("block1")
    assert vgg.layers[:4] == ("block1_conv1", "block1_conv2", "block1", "features")
    assert vgg.output_shape == (64, 112, 112)


def test_cut_gives_the_layers_output(cnn: TorchNetwork) -> None:
    x = batch(cnn)
    cut = cnn.cut("block1")
    assert cut.output_shape == (16, 8, 8)
    with torch.no_grad():
        assert np.array_equal(cut.forward(x), cnn.module.block1(torch.from_numpy(x)).numpy())
    assert cut.layer == "block1"
    assert cut.classes is None
    assert not any(name.startswith("output") for name in cut.weights())


def test_cut_inside_a_block_keeps_its_beginning(cnn: TorchNetwork) -> None:
    cut = cnn.cut("block2.conv")
    assert cut.layers[-2:] == ("block2", "block2.conv")
    assert again(cut).fingerprint() == cut.fingerprint()


def test_cut_at_a_block_and_at_its_last_layer_are_the_same_network(cnn: TorchNetwork) -> None:
    assert cnn.cut("block2").fingerprint() == cnn.cut("block2.pool").fingerprint()
    assert cnn.cut("output") is cnn


def test_unknown_layer_is_explained(cnn: TorchNetwork) -> None:
    with pytest.raises(NameUnknownError, match=r"`small_cnn` has no layer `blok1`\. Did you mean `block1`\? It has: "):
        cnn.cut("blok1")


def test_new_head_replaces_the_classifier(cnn: TorchNetwork) -> None:
    head = cnn.new_head(["a", "b"], hidden=[5], dropout=0.5, seed=1)
    assert head.classes == ("a", "b")
    assert head.output_shape == (2,)
    assert head.feature_layer == "fc1"
    assert "output" not in head.layers
    assert np.array_equal(head.cut("fc1").forward(x := batch(cnn)), cnn.cut("fc1").forward(x))


def test_new_head_on_a_cut_network_flattens_maps(cnn: TorchNetwork) -> None:
    network = cnn.cut("block1").new_head(2)
    assert network.forward(batch(cnn)).shape == (4, 2)
    assert network.layers[-3:] == ("head_flatten.flatten", "head", "head.output")
    assert again(network.cut("head_flatten")).output_shape == (16 * 8 * 8,)


def test_second_head_replaces_the_first(cnn: TorchNetwork) -> None:
    assert cnn.new_head(2).new_head(3).output_shape == (3,)
    assert "head2" not in cnn.new_head(2).new_head(3).layers


def test_head_of_another_width_is_refused(cnn: TorchNetwork) -> None:
    with pytest.raises(InputError, match=r"takes inputs of shape \(7,\); the network `small_cnn` cut at `fc1` gives"):
        cnn.cut("fc1").with_head(mlp(7, 2))


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n,
        lambda n: n.cut("block2"),
        lambda n: n.new_head(["x", "y"], hidden=[6, 4], activation="gelu"),
        lambda n: n.cut("block1").new_head(4).freeze("block1"),
        lambda n: n.new_head(2).cut("head"),
    ],
)
def test_spec_and_weights_rebuild_the_network(cnn: TorchNetwork, change) -> None:
    network = change(cnn)
    rebuilt = again(network)
    x = batch(network)
    assert np.array_equal(rebuilt.forward(x), network.forward(x))
    for name in ("name", "layer", "layers", "classes", "frozen", "feature_layer", "input_shape", "output_shape"):
        assert getattr(rebuilt, name) == getattr(network, name), name
    assert rebuilt.fingerprint() == network.fingerprint()


def test_fingerprint_tells_weights_layer_and_preprocessing_apart(cnn: TorchNetwork) -> None:
    other_seed = load_network("small_cnn", weights="random", input_shape=(1, 16, 16), outputs=3, seed=1)
    digits = load_network("digits_cnn")
    networks = [cnn, other_seed, cnn.cut("fc1"), cnn.cut("fc1.linear"), digits, digits.with_preprocessing(None)]
    assert len({network.fingerprint() for network in networks}) == len(networks)


def test_same_head_behind_other_layers_has_another_fingerprint(cnn: TorchNetwork) -> None:
    head = mlp(64, 2)
    before, behind = cnn.cut("fc1.linear").with_head(head), cnn.cut("fc1").with_head(head)
    assert before.weights().keys() == behind.weights().keys()
    assert before.fingerprint() != behind.fingerprint()


def test_names_of_classes_do_not_change_the_fingerprint(cnn: TorchNetwork) -> None:
    assert cnn.with_classes(["a", "b", "c"]).fingerprint() == cnn.fingerprint()


def test_random_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = mlp(3, 2, [4], seed=5)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert mlp(3, 2, [4], seed=5).fingerprint() == first.fingerprint()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_weights_that_do_not_fit_are_listed(cnn: TorchNetwork) -> None:
    weights = cnn.weights()
    weights["unknown"] = weights.pop("output.bias")
    weights["output.weight"] = np.zeros((1, 1), np.float32)
    with pytest.raises(
        ModelError, match=r"missing: output\.bias.*unknown: unknown.*output\.weight: \(1, 1\) instead of"
    ):
        cnn.with_weights(weights)


def test_damaged_spec_is_an_error(cnn: TorchNetwork) -> None:
    spec = cnn.to_spec()
    del spec["parts"]
    with pytest.raises(ModelError, match=r"damaged: KeyError\('parts'\)"):
        from_spec(spec, cnn.weights())
    with pytest.raises(ModelError, match="`kind` must be torch or onnx; got None"):
        from_spec({}, {})
    with pytest.raises(ModelError, match="no architecture `new`; a newer version"):
        from_spec({**cnn.to_spec(), "parts": [{"build": "new", "options": {}}]}, {})


def test_networks_are_not_changed_by_training_a_copy(cnn: TorchNetwork) -> None:
    before = cnn.fingerprint()
    module = cnn.to_module().train()
    module(torch.from_numpy(batch(cnn))).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    assert again(cnn).fingerprint() == before


def test_freeze_until_and_unfreeze_from(cnn: TorchNetwork) -> None:
    frozen = cnn.freeze("block2")
    assert frozen.frozen == {f"block{n}.{layer}" for n in (1, 2) for layer in ("conv", "bn", "act", "pool")}
    assert frozen.unfreeze("block2").frozen == {name for name in frozen.frozen if name.startswith("block1")}
    assert frozen.unfreeze().frozen == frozenset()
    assert "output" in cnn.freeze().frozen
    module = frozen.to_module().train()
    assert not module.block1.bn.training
    assert not module.block2.conv.weight.requires_grad
    assert module.fc1.linear.weight.requires_grad
    assert frozen.summary().frozen_parameters == frozen.cut("block2").summary().parameters


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_head_in_onnx_equals_torch(activation: str) -> None:
    head = mlp(6, 3, [8, 5], activation, dropout=0.3, seed=2, mean=RNG.standard_normal(6), scale=RNG.random(6))
    x = batch(head, 50) * 3
    assert np.abs(run_onnx(head, x) - head.forward(x)).max() < 1e-5
    for layer in ("standardise", "hidden2", "act2"):
        cut = head.cut(layer)
        assert np.abs(run_onnx(cut, x) - cut.forward(x)).max() < 1e-5


def test_head_on_a_head_in_onnx_equals_torch() -> None:
    network = mlp(6, 3, [8]).cut("act1").new_head(2, hidden=[4])
    x = batch(network)
    assert np.abs(run_onnx(network, x) - network.forward(x)).max() < 1e-6


def test_network_with_head_in_onnx_equals_torch_for_any_batch(cnn: TorchNetwork) -> None:
    network = cnn.cut("block2").new_head(2, hidden=[4])
    for rows in (1, 3, 32):
        x = batch(network, rows)
        assert np.abs(run_onnx(network, x) - network.forward(x)).max() < 1e-5


def test_export_is_cached_on_disk(cnn: TorchNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARKWRIGHT_HOME", str(tmp_path))
    first = cnn.to_onnx()
    files = list((tmp_path / "onnx").iterdir())
    assert [file.suffix for file in files] == [".onnx"]
    monkeypatch.setattr("sparkwright.networks.export._run_torch_export", lambda network: pytest.fail("exported again"))
    assert cnn.to_onnx() == first
    # Another head on the same layers needs no export either.
    assert cnn.with_classes(["a", "b", "c"]).to_onnx() == first


def test_export_works_where_the_cache_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("SPARKWRIGHT_HOME", str(tmp_path / "file"))
    network = load_network("small_cnn", weights="random", input_shape=(1, 8, 8), channels=(2,), features=3)
    assert run_onnx(network, batch(network)).shape == (4, 10)


def test_convolutions_batchnorm_and_activations_fuse_in_onnx_runtime(tmp_path: Path) -> None:
    import onnx

    network = load_network("mobilenet_v1_0.25", weights="random")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(network.to_onnx(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("Conv") == 27
    assert not {"BatchNormalization", "Clip", "Relu", "Pad"} & set(kinds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": 0, "outputs": 2}, "All widths must be at least 1; got 0 inputs"),
        ({"inputs": 2, "outputs": 2, "hidden": [0]}, r"hidden \[0\]"),
        ({"inputs": 2, "outputs": 2, "activation": "rely"}, r"`activation` must be one of .*Did you mean `relu`\?"),
        ({"inputs": 2, "outputs": 2, "dropout": 1.0}, "`dropout` must be at least 0 and below 1; got 1.0"),
        ({"inputs": 2, "outputs": 2, "mean": [1.0]}, "`mean` must hold one value for each of 2 inputs"),
    ],
)
def test_impossible_mlp_is_explained(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mlp(**arguments)


def test_mlp_standardises_its_inputs() -> None:
    network = mlp(2, 2, mean=[1.0, 2.0], scale=[0.5, 4.0])
    x = np.array([[3.0, 1.0]], np.float32)
    assert network.cut("standardise").forward(x).tolist() == [[1.0, -4.0]]
    assert network.summary().parameters == 6  # mean and scale are not trained


def test_preprocessing_of_another_size_is_refused(cnn: TorchNetwork) -> None:
    with pytest.raises(
        InputError, match=r"takes inputs of shape \(1, 16, 16\).*the preprocessing makes \(3, 224, 224\)"
    ):
        cnn.with_preprocessing("imagenet")


def test_wrong_number_of_classes_is_refused(cnn: TorchNetwork) -> None:
    with pytest.raises(InputError, match=r"gives outputs of shape \(3,\); got 2 classes"):
        cnn.with_classes(["a", "b"])
