"""The networks known by name, and how a name or a file becomes a network."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkwright.errors import InputError, ModelError, NameUnknownError, NotFoundError, did_you_mean
from sparkwright.events import Emit
from sparkwright.networks.audio import AudioPreprocessing
from sparkwright.networks.network import Network
from sparkwright.networks.preprocessing import PRESETS, AnyPreprocessing, Preprocessing, as_preprocessing
from sparkwright.networks.series import SeriesPreprocessing
from sparkwright.networks.text import TextPreprocessing

if TYPE_CHECKING:
    from sparkwright.networks.torch_network import Architecture

__all__ = ["CATALOGUE", "Entry", "builder", "imagenet_classes", "load_network", "names"]

# Architecture → the function that builds it. A saved model names its architectures: entries may be added, not renamed.
_BUILDERS = {
    "flatten": "torch_network:build_flatten",
    **{
        name: f"{name}:build"
        for name in (
            "alexnet",
            "cnn1d",
            "factory",
            "lenet",
            "mlp",
            "mobilenet_v1",
            "mobilenet_v2",
            "recurrent",
            "resnet",
            "small_cnn",
            "squeezenet",
            "vgg",
        )
    },
    "resnet_small": "resnet:build_small",
}

# Where torchvision publishes weights; its names of parameters are ours.
_TORCHVISION = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class Entry:
    """A network of the catalogue.

    Attributes:
        name: What `load_network` calls it.
        about: One line on it.
        build: Its architecture.
        options: What the architecture is built with.
        preprocessing: Name of a preset, or the preprocessing.
        url: Where its published weights are; the first eight digits of their SHA-256 are in the file's name.
        packaged: File with its weights that the library carries.
        classes: "imagenet", or the names; None for a network that is only trained from scratch.
    """

    name: str
    about: str
    build: str
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: str | Preprocessing | None = "imagenet"
    url: str | None = None
    packaged: str | None = None
    classes: str | tuple[str, ...] | None = "imagenet"


# Of networks that are trained from scratch; the means and deviations are those of MNIST's pixels, and of ImageNet's.
_DIGITS = Preprocessing((28, 28), resize="exact", channels="grey", mean=(0.1307,), std=(0.3081,))
_MLP = {"inputs": 784, "outputs": 10, "hidden": (200, 200)}
_SMALL_COLOUR = dataclasses.replace(PRESETS["imagenet"], size=(32, 32), resize="exact", short_side=None)

_ENTRIES = (
    Entry("alexnet", "AlexNet (Krizhevsky 2014)", "alexnet", url=f"{_TORCHVISION}alexnet-owt-7be5be79.pth"),
    *(
        Entry(
            f"mobilenet_v1_{width}",
            f"MobileNet v1, width {width} (Howard et al. 2017)",
            "mobilenet_v1",
            {"width": float(width)},
            "inception",
        )
        for width in ("0.25", "0.5", "0.75", "1.0")
    ),
    Entry(
        "mobilenet_v2",
        "MobileNet v2 (Sandler et al. 2018)",
        "mobilenet_v2",
        url=f"{_TORCHVISION}mobilenet_v2-b0353104.pth",
    ),
    *(
        Entry(f"resnet{depth}", f"ResNet-{depth} (He et al. 2015)", "resnet", {"depth": depth}, url=_TORCHVISION + file)
        for depth, file in (
            (18, "resnet18-f37072fd.pth"),
            (34, "resnet34-b627a593.pth"),
            (50, "resnet50-0676ba61.pth"),
        )
    ),
    Entry(
        "digits_cnn",
        "A small CNN trained on scikit-learn's digits 0 to 4",
        "small_cnn",
        {"input_shape": (1, 16, 16), "outputs": 5, "channels": (16, 32), "features": 64},
        Preprocessing((16, 16), resize="exact", channels="grey", mean=(0.3,), std=(0.38,)),
        packaged="digits.safetensors",
        classes=("0", "1", "2", "3", "4"),
    ),
    Entry(
        "mlp", "A multi-layer perceptron for tables", "mlp", {"inputs": 784, "outputs": 10, "hidden": (200, 200)}, None
    ),
    Entry("lenet5", "LeNet-5 (LeCun et al. 1998), for grey images of 28 x 28", "lenet", {}, _DIGITS, classes=None),
    Entry(
        "lenet",
        "LeNet as Caffe's and DL4J's examples have it, for grey images of 28 x 28",
        "lenet",
        {"channels": (20, 50), "hidden": (500,), "padding": 0},
        _DIGITS,
        classes=None,
    ),
    Entry("small_cnn", "A small CNN for small grey images", "small_cnn", {}, None, classes=None),
    Entry(
        "small_cnn_32",
        "A small CNN for colour images of 32 x 32",
        "small_cnn",
        {"input_shape": (3, 32, 32), "channels": (32, 64, 128), "features": 128},
        _SMALL_COLOUR,
        classes=None,
    ),
    *(
        Entry(
            f"resnet{depth}",
            f"ResNet-{depth} for colour images of 32 x 32 (He et al. 2015, section 4.2)",
            "resnet_small",
            {"depth": depth},
            _SMALL_COLOUR,
            classes=None,
        )
        for depth in (20, 32, 44, 56)
    ),
    Entry("lstm", "Embedding and LSTM for texts, both ways", "recurrent", {"vocabulary": 20_001}, None, classes=None),
    Entry(
        "gru",
        "Embedding and GRU for texts, both ways",
        "recurrent",
        {"vocabulary": 20_001, "cell": "gru"},
        None,
        classes=None,
    ),
    Entry("text_cnn", "CNN over words (Kim 2014)", "cnn1d", {"vocabulary": 20_001}, None, classes=None),
    Entry(
        "audio_cnn",
        "CNN over the frames of log-mel spectrograms",
        "cnn1d",
        {
            "channels": 64,
            "max_length": 1000,
            "widths": (64, 128, 128),
            "kernels": (5,),
            "norm": True,
            "halve": True,
            "pooling": "mean_max",
        },
        None,
        classes=None,
    ),
    *(
        Entry(
            f"squeezenet{version}",
            f"SqueezeNet {version} (Iandola et al. 2016)",
            "squeezenet",
            {"version": version},
            url=_TORCHVISION + file,
        )
        for version, file in (("1.0", "squeezenet1_0-b66bff10.pth"), ("1.1", "squeezenet1_1-b8a52dc0.pth"))
    ),
    *(
        Entry(
            f"vgg{depth}", f"VGG{depth} (Simonyan & Zisserman 2014)", "vgg", {"depth": depth}, url=_TORCHVISION + file
        )
        for depth, file in ((16, "vgg16-397923af.pth"), (19, "vgg19-dcbb9e9d.pth"))
    ),
)

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def names() -> tuple[str, ...]:
    """Return the names of all networks of the catalogue, sorted."""
    return tuple(sorted(CATALOGUE))


def builder(name: str) -> "Callable[..., Architecture]":
    """Return the function that builds an architecture.

    Raises:
        ModelError: No such architecture: a newer version may have written the model.
    """
    if name not in _BUILDERS:
        raise ModelError(f"There is no architecture `{name}`; a newer version may have written the model.")
    module, function = _BUILDERS[name].split(":")
    build: Callable[..., Architecture] = getattr(import_module(f"sparkwright.networks.{module}"), function)
    return build


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes in the order of every published network's outputs."""
    text = resources.files("sparkwright.networks").joinpath("data/imagenet_classes.txt").read_text("utf-8")
    return tuple(text.splitlines())


def load_network(
    name_or_path: str | Path,
    weights: str | Path | None = None,
    preprocessing: AnyPreprocessing | Mapping[str, Any] | str | None = None,
    classes: Sequence[str] | str | None = None,
    seed: int = 0,
    emit: Emit | None = None,
    **options: Any,
) -> Network:
    """Return a network: from the catalogue by name, or from a file or folder.

    Args:
        name_or_path: A name of the catalogue (`names`); a model folder; an ``.onnx`` file; a ``.safetensors`` file
            that is named as a network of the catalogue; or a folder with one of these.
        weights: For a name: a ``.safetensors`` file or a folder with one; ``"random"`` for random weights of `seed`;
            by default the published weights, which are downloaded once.
        preprocessing: Replaces the network's own: a Preprocessing, its dict, or the name of a preset. Needed for an
            ``.onnx`` file of images, which does not say what it expects.
        classes: Names of the outputs, or ``"imagenet"``; replaces the network's own.
        seed: Of random weights.
        emit: Hears of a download; by default a bar is drawn where there is a terminal.
        options: Replace those of the architecture (``outputs``, ``width`` …), for random or own weights. A network of
            sequences takes ``vocabulary``, ``channels`` and ``max_length`` from the preprocessing that is given.

    Raises:
        NameUnknownError: No network of that name, and no file.
        NotFoundError: No weights, or nothing usable in the folder.
        InputError: The file cannot be used.
        ModelError: The weights do not fit.
        DownloadError: The published weights cannot be fetched.
    """
    path = Path(name_or_path)
    entry = _find_entry(str(name_or_path))
    if entry is not None:
        network = _from_catalogue(entry, weights, seed, {**_sizes(entry, preprocessing), **options}, emit)
    elif path.exists():
        if weights is not None or options:
            raise InputError(f"`weights` and options go with a name of the catalogue; {path} is a file or folder.")
        network = _from_path(path, preprocessing)
    else:
        raise NameUnknownError(
            f"There is no network `{name_or_path}`, in the catalogue or as a file."
            f"{did_you_mean(str(name_or_path), CATALOGUE)} The catalogue has {', '.join(names())}."
        )
    if preprocessing is not None:
        network = network.with_preprocessing(_fitted(preprocessing, network))
    if classes is None:
        return network
    return network.with_classes(imagenet_classes() if classes == "imagenet" else classes)


def _find_entry(name: str) -> Entry | None:
    """Find a name, with or without the input size behind it (``vgg16_224``)."""
    return CATALOGUE.get(name) or CATALOGUE.get(name.removesuffix("_224"))


def _fitted(preprocessing: AnyPreprocessing | Mapping[str, Any] | str, network: Network) -> AnyPreprocessing:
    """Return a preset for the network's size of image; what is not a preset stays as it is."""
    value = as_preprocessing(preprocessing)
    if not isinstance(preprocessing, str) or not isinstance(value, Preprocessing) or len(network.input_shape) != 3:
        return value
    height, width = network.input_shape[1:]
    share = (value.short_side or max(value.size)) / max(value.size)
    return dataclasses.replace(value, size=(height, width), short_side=round(share * max(height, width)))


def _sizes(entry: Entry, preprocessing: AnyPreprocessing | Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Return the options of a network of sequences that its preprocessing tells."""
    if entry.build not in ("cnn1d", "recurrent") or preprocessing is None:
        return {}
    value = as_preprocessing(preprocessing)
    if isinstance(value, TextPreprocessing):
        return {"vocabulary": value.size, "channels": None, "max_length": value.max_length}
    if isinstance(value, AudioPreprocessing):
        return {"vocabulary": None, "channels": value.bands, "max_length": value.max_length}
    if isinstance(value, SeriesPreprocessing):
        return {"vocabulary": None, "channels": value.channels, "max_length": value.max_length}
    return {}


def _from_catalogue(
    entry: Entry, weights: str | Path | None, seed: int, options: Mapping[str, Any], emit: Emit | None = None
) -> Network:
    from sparkwright.networks.torch_network import TorchNetwork
    from sparkwright.networks.weights import find_weights, read_packaged

    merged = {**entry.options, **options}
    is_random = str(weights) == "random"
    loaded: Mapping[str, Any] | None = None
    if entry.packaged and weights is None:
        loaded = read_packaged(entry.packaged)
    elif not is_random:
        loaded = find_weights(entry.name, entry.url, weights, emit)
    try:
        network = TorchNetwork.build(entry.name, entry.build, merged, seed, loaded)
    except TypeError as error:  # an unknown option
        raise InputError(f"The network `{entry.name}` cannot be built with {merged}: {error}.") from error
    if entry.preprocessing is not None:
        value = _fitted(entry.preprocessing, network)
        if isinstance(value, Preprocessing) and "input_shape" in options and value.shape[0] == network.input_shape[0]:
            value = dataclasses.replace(value, size=(network.input_shape[1], network.input_shape[2]))
        network = network.with_preprocessing(value if value.shape == network.input_shape else None)
    known = imagenet_classes() if entry.classes == "imagenet" else entry.classes
    fits = known is not None and network.output_shape == (len(known),)
    return network.with_classes(known) if fits and not is_random else network


def _from_path(path: Path, preprocessing: AnyPreprocessing | Mapping[str, Any] | str | None) -> Network:
    if path.is_dir():
        path = _inside(path)
    if path.name == "model.json":
        return _from_model(path.parent)
    if path.suffix == ".onnx":
        return _from_onnx(path, preprocessing)
    if path.suffix == ".safetensors":
        entry = _find_entry(path.stem)
        if entry is None:
            raise NameUnknownError(
                f"{path} holds weights, but {path.stem!r} is no network of the catalogue, so its layers are unknown."
                f"{did_you_mean(path.stem, CATALOGUE)} Give the network's name, "
                f"and the file as its weights (weights={str(path)!r}, --weights)."
            )
        return _from_catalogue(entry, path, 0, {})
    raise InputError(f"{path} is neither a model folder nor an .onnx nor a .safetensors file.")


def _inside(folder: Path) -> Path:
    """Find what a folder holds: a model, weights of a network of the catalogue, or a graph."""
    if (folder / "model.json").exists():
        return folder / "model.json"
    for suffix in (".safetensors", ".onnx"):
        found = sorted(folder.glob(f"*{suffix}"))
        if suffix == ".safetensors" and len(found) > 1:
            found = [file for file in found if _find_entry(file.stem)]
        if len(found) > 1:
            raise InputError(f"{folder} holds several {suffix} files; give one: {', '.join(f.name for f in found)}.")
        if found and (suffix == ".onnx" or _find_entry(found[0].stem)):
            return found[0]
    there = ", ".join(sorted(file.name for file in folder.iterdir())[:10]) or "nothing"
    raise NotFoundError(
        f"{folder} holds no network: no model.json, no .safetensors named as a network of the catalogue, no .onnx. "
        f"It holds {there}."
    )


def _from_model(folder: Path) -> Network:
    from sparkwright.models import Model

    network: Network = Model.load(str(folder)).full
    return network


def _from_onnx(path: Path, preprocessing: AnyPreprocessing | Mapping[str, Any] | str | None) -> Network:
    import onnx

    from sparkwright.networks.onnx_network import OnnxNetwork

    try:
        model = onnx.load(str(path))  # reads weights in files beside it, too
    except Exception as error:
        raise InputError(f"{path} is not an ONNX file, or it is damaged: {error}") from error
    network = OnnxNetwork.from_model(path.stem, model)
    entry = _find_entry(path.stem)
    if entry is not None and entry.preprocessing is not None:
        network = network.with_preprocessing(_fitted(entry.preprocessing, network))
    elif len(network.input_shape) == 3 and preprocessing is None:
        raise InputError(
            f"{path} does not say how images become its input of shape {network.input_shape}. Give `preprocessing`: "
            f"one of the presets {', '.join(PRESETS)}, or a Preprocessing."
        )
    known = imagenet_classes() if entry is not None and entry.classes == "imagenet" else None
    return network.with_classes(known) if known and network.output_shape == (len(known),) else network
