import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sparkwright.data.digits import write_digits
from sparkwright.errors import InputError, ModelError, NameUnknownError, NotFoundError
from sparkwright.networks.catalogue import CATALOGUE, imagenet_classes, load_network, names
from sparkwright.networks.preprocessing import PRESETS


def test_names_are_listed_without_torch() -> None:
    code = "import sys, sparkwright.networks.catalogue as c; print(len(c.names()), 'torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert printed == [str(len(names())), "False"]


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [
        # Published counts: torchvision's `num_params`; MobileNet v1: Howard et al. 2017, table 8, in millions.
        ("alexnet", 61_100_840, (4096,)),
        ("vgg16", 138_357_544, (4096,)),
        ("vgg19", 143_667_240, (4096,)),
        ("resnet18", 11_689_512, (512,)),
        ("resnet34", 21_797_672, (512,)),
        ("resnet50", 25_557_032, (2048,)),
        ("squeezenet1.0", 1_248_424, (1000,)),
        ("squeezenet1.1", 1_235_496, (1000,)),
        ("mobilenet_v2", 3_504_872, (1280,)),
        ("mobilenet_v1_1.0", 4_231_976, (1024,)),
        ("mobilenet_v1_0.75", 2_585_560, (768,)),
        ("mobilenet_v1_0.5", 1_331_592, (512,)),
        ("mobilenet_v1_0.25", 470_072, (256,)),
        ("digits_cnn", 38_005, (64,)),
    ],
)
def test_network_has_its_published_size(name: str, parameters: int, features: tuple[int, ...]) -> None:
    from sparkwright.networks.torch_network import Part, TorchNetwork

    entry = CATALOGUE[name]
    empty = TorchNetwork._skeleton(name, Part(entry.build, entry.options), None)
    assert empty.summary().parameters == parameters
    assert empty.output_shape == ((5,) if name == "digits_cnn" else (1000,))
    assert empty.cut(empty.feature_layer).output_shape == features
    for layer in empty.layers:
        empty.cut(layer)


@pytest.mark.parametrize(
    ("name", "parameters", "features"),
    [
        ("lenet5", 61_706, (84,)),
        ("lenet", 431_080, (500,)),  # Caffe's `lenet.prototxt`
        ("resnet20", 272_474, (64,)),  # with 1 x 1 convolutions as shortcuts: 2,752 more than without
        ("resnet56", 855_770, (64,)),
        ("small_cnn_32", 357_034, (128,)),
        ("mlp", 199_210, (200,)),
    ],
)
def test_network_to_train_from_scratch_takes_its_images(name: str, parameters: int, features: tuple[int, ...]) -> None:
    network = load_network(name, weights="random")
    assert network.summary().parameters == parameters
    assert network.forward(np.zeros((2, *network.input_shape), np.float32)).shape == (2, 10)
    assert network.classes is None
    if name == "mlp":
        assert network.preprocessing is None
    else:
        assert network.preprocessing.shape == network.input_shape
        assert network.cut(network.feature_layer).output_shape == features


def test_preprocessing_follows_the_size_of_a_network_from_scratch() -> None:
    assert load_network("lenet", weights="random", input_shape=(1, 32, 32)).preprocessing.size == (32, 32)
    assert load_network("lenet", weights="random", input_shape=(3, 32, 32)).preprocessing is None


def test_impossible_shapes_of_networks_from_scratch_are_explained() -> None:
    with pytest.raises(InputError, match=r"Images of \(1, 8, 8\) are too small for 2 convolutions"):
        load_network("lenet", weights="random", input_shape=(1, 8, 8))
    with pytest.raises(InputError, match=r"`depth` must be 6 n \+ 2.*got 21"):
        load_network("resnet20", weights="random", depth=21)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("vgg16", {"block5": (512, 7, 7), "pool": (512, 7, 7), "fc1": (4096,), "fc2": (4096,), "fc3": (1000,)}),
        ("alexnet", {"block5": (256, 6, 6), "pool": (256, 6, 6), "fc1": (4096,), "fc2": (4096,)}),
        ("resnet50", {"block4": (2048, 7, 7), "layer1": (256, 56, 56), "layer2.0": (512, 28, 28), "pool": (2048,)}),
        ("squeezenet1.1", {"fire9": (512, 13, 13), "features": (512, 13, 13)}),
        ("mobilenet_v2", {"block7": (320, 7, 7), "features": (1280, 7, 7), "pool": (1280, 1, 1), "flatten": (1280,)}),
        ("mobilenet_v1_0.75", {"conv_pw_13": (768, 7, 7), "block13": (768, 7, 7), "pool": (768, 1, 1)}),
    ],
)
def test_layers_have_the_names_that_users_know(name: str, layers: dict[str, tuple[int, ...]]) -> None:
    from sparkwright.networks.torch_network import Part, TorchNetwork

    entry = CATALOGUE[name]
    empty = TorchNetwork._skeleton(name, Part(entry.build, entry.options), None)
    assert {layer: empty.cut(layer).output_shape for layer in layers} == layers


def test_relu_is_part_of_fc2() -> None:
    network = load_network("alexnet", weights="random").cut("fc2")
    x = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    assert network.forward(x).min() == 0


def test_torchvisions_names_of_parameters_are_kept() -> None:
    keys = load_network("resnet18", weights="random").weights().keys()
    assert {"conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.num_batches_tracked", "fc.bias"} <= keys
    keys = load_network("mobilenet_v2", weights="random").weights().keys()
    assert {"features.0.0.weight", "features.2.conv.1.1.bias", "features.18.1.weight", "classifier.1.weight"} <= keys


def test_published_files_name_their_hash() -> None:
    urls = [entry.url for entry in CATALOGUE.values() if entry.url]
    assert len(urls) == 9
    for url in urls:
        assert url.startswith("https://download.pytorch.org/models/")
        assert len(url.removesuffix(".pth").rsplit("-", 1)[1]) == 8


def test_imagenet_has_a_thousand_different_classes() -> None:
    classes = imagenet_classes()
    assert len(set(classes)) == 1000
    assert (classes[0], classes[207], classes[999]) == ("tench", "golden retriever", "toilet tissue")


def test_network_without_published_weights_is_never_random_in_silence() -> None:
    with pytest.raises(NotFoundError, match=r"No weights of `mobilenet_v1_0\.5` are published.*weights='random'"):
        load_network("mobilenet_v1_0.5_224")


def test_random_network_names_no_classes() -> None:
    assert load_network("mobilenet_v1_0.25", weights="random").classes is None


def test_unknown_name_is_explained() -> None:
    with pytest.raises(
        NameUnknownError, match=r"no network `vgg15`.*Did you mean `vgg1\d`\? The catalogue has alexnet"
    ):
        load_network("vgg15")


def test_unknown_option_is_explained() -> None:
    with pytest.raises(InputError, match=r"`vgg16` cannot be built with .*widht"):
        load_network("vgg16", weights="random", widht=2)


def test_weights_file_with_a_catalogue_name_loads(tmp_path: Path) -> None:
    network = load_network("mobilenet_v1_0.25", weights="random", seed=3)
    file = tmp_path / "mobilenet_v1_0.25_224.safetensors"
    save_file({name: value.copy() for name, value in network.weights().items()}, file)
    loaded = [load_network(file), load_network(tmp_path), load_network("mobilenet_v1_0.25", weights=tmp_path)]
    assert {one.fingerprint() for one in loaded} == {network.fingerprint()}
    assert loaded[0].preprocessing == PRESETS["inception"]
    assert loaded[0].classes == imagenet_classes()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "vgg16.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, file)
    with pytest.raises(ModelError, match=r"do not fit the network `vgg16`; missing: features\.0\.weight.*unknown: a"):
        load_network(file)


def test_damaged_weights_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "vgg16.safetensors"
    file.write_bytes(b"\x10\0\0\0\0\0\0\0garbage")
    with pytest.raises(ModelError, match=r"vgg16\.safetensors are damaged"):
        load_network(file)


def test_weights_file_of_unknown_name_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, file)
    with pytest.raises(NameUnknownError, match=r"'mine' is no network of the catalogue.*--weights\)"):
        load_network(file)


def test_folder_without_a_network_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NotFoundError, match=r"holds no network: .*It holds notes\.txt\."):
        load_network(tmp_path)


def test_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_text("hello")
    with pytest.raises(InputError, match=r"neither a model folder nor an \.onnx nor a \.safetensors file"):
        load_network(tmp_path / "net.h5")


def test_preset_takes_the_networks_size() -> None:
    network = load_network("small_cnn", weights="random", input_shape=(3, 112, 112), preprocessing="imagenet")
    assert network.preprocessing is not None
    assert (network.preprocessing.size, network.preprocessing.short_side) == ((112, 112), 128)


def test_digits_network_labels_the_digits_that_it_knows(tmp_path: Path) -> None:
    write_digits(tmp_path, range(5))
    files = sorted(tmp_path.rglob("*.png"), key=lambda file: file.name)[4::5]  # it was trained on the others
    network = load_network("digits_cnn")
    assert network.preprocessing is not None
    outputs = network.forward(np.stack([network.preprocessing.apply(file) for file in files]))
    right = [network.classes[row.argmax()] == file.parent.name for row, file in zip(outputs, files, strict=True)]
    assert np.mean(right) > 0.98


def test_spec_of_every_network_is_json() -> None:
    for name in ("digits_cnn", "squeezenet1.1", "mobilenet_v1_0.25"):
        network = load_network(name, weights=None if name == "digits_cnn" else "random")
        assert json.loads(json.dumps(network.to_spec()))["name"] == name


def test_model_folder_loads_as_the_whole_network(tmp_path: Path) -> None:
    from sparkwright.models import Model
    from sparkwright.networks.mlp import mlp

    network = load_network("digits_cnn").cut("fc1")
    head = mlp(64, 2).with_classes(["five", "six"])
    Model(network=network, head=head, task="classification", classes=("five", "six")).save(str(tmp_path / "model"))
    loaded = load_network(tmp_path / "model")
    assert loaded.classes == ("five", "six")
    assert loaded.preprocessing == network.preprocessing
    x = np.random.default_rng(0).random((3, 1, 16, 16)).astype(np.float32)
    assert np.allclose(loaded.forward(x), head.forward(network.forward(x)), atol=1e-6)
    assert loaded.cut(str(loaded.feature_layer)).fingerprint() == network.fingerprint()
