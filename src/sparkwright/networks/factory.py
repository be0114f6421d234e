"""Any `torch.nn.Module`, built by an importable function: a network names it and its arguments, and never pickles it.

A model that is saved keeps the name ``package.module:function``, the arguments and the weights. Loading it runs that
function, so it must be one that you trust: one that this process has named itself (`from_factory`), one given to
`trust`, or one in the environment variable ``SPARKWRIGHT_FACTORIES`` (names, or modules, separated by commas).
"""

import contextlib
import io
import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparkwright.errors import InputError, ModelError, did_you_mean
from sparkwright.networks.network import Network
from sparkwright.networks.torch_network import Architecture, Layers, TorchNetwork

if TYPE_CHECKING:
    from sparkwright.networks.preprocessing import Preprocessing

__all__ = [
    "FACTORIES",
    "Adapted",
    "Units",
    "build",
    "check_export",
    "factories_of",
    "from_factory",
    "import_factory",
    "inputs_of",
    "outputs_of",
    "trust",
]

FACTORIES = "SPARKWRIGHT_FACTORIES"
"""Environment variable: the factories, or modules of factories, that models may name; separated by commas."""

Key = str | int
"""What a module's output is found by: a key, an attribute or an index."""

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_trusted: set[str] = set()


def from_factory(
    factory: str,
    inputs: Sequence[int] | Mapping[str, Sequence[int]],
    arguments: Mapping[str, Any] | None = None,
    *,
    output: Key | Sequence[str] | Mapping[str, Key] | None = None,
    name: str | None = None,
    seed: int = 0,
    weights: Mapping[str, Any] | None = None,
    preprocessing: "Preprocessing | None" = None,
    classes: Sequence[str] | None = None,
) -> TorchNetwork:
    """Return the network that a function of yours builds.

    Where the function gives a `torch.nn.Sequential`, its children are the network's layers, at which it can be cut.
    Any other module is one layer, ``module``; layers inside it can be frozen by their path (``module.encoder``, and
    ``module.inner.encoder`` with several inputs or an `output`).

    A module with several inputs takes them by name, as ``forward(image=…, age=…)``. The network takes them as one
    vector, one after the other: columns of numbers, named in the inputs' order, are that. None of them can be read from
    photos, texts or sounds: make features of these first, and let the network take the features.

    All parameters train that are not frozen by name (`Network.freeze`), whatever their ``requires_grad`` says.

    Runs the function in this process. Processes of the cluster run it too, so they must be able to import it.

    Args:
        factory: ``"package.module:function"``; a class will do. It must give a new module at each call.
        inputs: Shape of one input, without the batch; or of several, by the names that ``forward`` has for them. All
            are float32.
        arguments: The function's keyword arguments, as JSON can hold them.
        output: Which of the things that ``forward`` gives is the output, where it gives several: its key, attribute or
            index. Or several, to train together (``TrainingConfig(outputs=…)``): a list of keys or attributes, or names
            of your own, each with a key, attribute or index. They leave the network behind one another, flattened.
        name: Of the network; by default the function's.
        seed: Of torch's random numbers while the function runs.
        weights: By name, instead of those that the function gives.
        preprocessing: From an image's bytes to the one input; None where the input is not an image.
        classes: Names of the outputs.

    Raises:
        InputError: The function cannot be imported or called, or its arguments not be held by JSON; it does not give a
            module, or gives one that has no trainable parameters, does not take such inputs, or does not give such an
            output; there are several inputs and a preprocessing.

    Example:
        >>> from_factory("torch.nn:Linear", (4,), {"in_features": 4, "out_features": 3}).output_shape
        (3,)
    """
    _check_name(factory)
    if preprocessing is not None and isinstance(inputs, Mapping):
        raise InputError(
            f"A preprocessing makes the one input of a network; the factory `{factory}` has {len(inputs)}: "
            f"{', '.join(inputs)}. Several inputs are columns of numbers. To learn from photos and numbers together, "
            "make features of the photos first (`Featurizer`), and let one of the inputs take them; or train a head on "
            "the features and the other columns: MLPClassifier(featuresCols=[…])."
        )
    trust(factory)
    try:
        json.dumps(dict(arguments or {}))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The arguments of the factory `{factory}` travel, and are saved with a model, as JSON: numbers, text, "
            f"lists, mappings, true, false or None; got {arguments!r}."
        ) from error
    options: dict[str, Any] = {"factory": factory, "arguments": dict(arguments or {})}
    if isinstance(inputs, Mapping):
        options["inputs"] = [[key, [int(size) for size in shape]] for key, shape in inputs.items()]
    else:
        options["inputs"] = [int(size) for size in inputs]
    if output is not None:
        options["output"] = output if isinstance(output, str | int) else _named(output)
    title = name or factory.rpartition(":")[2].rpartition(".")[2]
    try:
        network = TorchNetwork.build(title, "factory", options, seed, weights)
        if not any(parameter.numel() for parameter in network.module.parameters()):
            raise InputError(f"What the factory `{factory}` gives has no parameters, so there is nothing to train.")
        _ = network.output_shape
    except (InputError, ModelError):
        raise
    except Exception as error:
        raise InputError(
            f"What the factory `{factory}` gives does not take inputs of shape {_shown(inputs)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if preprocessing is not None:
        network = network.with_preprocessing(preprocessing)
    return network if classes is None else network.with_classes(classes)


class Adapted(nn.Module):
    """A module as a layer of a network: from one vector to its inputs by name, from what it gives to one output.

    Args:
        module: What the factory gave.
        inputs: Names and shapes of its inputs, in the vector's order; empty: it takes what comes.
        output: Key, attribute or index of the output among what it gives; None: it gives the output itself. Or several
            by name, which are put behind one another, flattened, in the targets' own units.

    Attributes:
        widths: Of several outputs: name → how many numbers of the vector are its own, in their order. `measure` finds
            them.
    """

    def __init__(
        self, module: nn.Module, inputs: Mapping[str, Sequence[int]], output: Key | Mapping[str, Key] | None = None
    ) -> None:
        super().__init__()
        self.inner = module
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.output = output
        self.widths: dict[str, int] = {}

    def forward(self, x_BF: Tensor) -> Tensor:
        given = self._given(x_BF)
        if isinstance(self.output, Mapping):
            joined: Tensor = self.units(torch.cat(self._parts(given, self.output), 1))
            return joined
        if self.output is not None:
            given = _picked(given, self.output)
        if not isinstance(given, Tensor):
            raise TypeError(f"it gives a {type(given).__name__}, not a tensor; say which part is the `output`")
        return given

    def measure(self, shape: Sequence[int]) -> None:
        """Find out how wide each of several outputs is, for inputs of a shape, without the batch."""
        if isinstance(self.output, Mapping):
            with torch.no_grad():
                parts = self.eval()._parts(self._given(torch.zeros(1, *shape)), self.output)
            self.widths = {name: part.shape[1] for name, part in zip(self.output, parts, strict=True)}
            self.units = Units(sum(self.widths.values()))

    def _given(self, x_BF: Tensor) -> Any:
        if not self.inputs:
            return self.inner(x_BF)
        parts = torch.split(x_BF, [math.prod(shape) for shape in self.inputs.values()], dim=1)
        named = zip(self.inputs.items(), parts, strict=True)
        return self.inner(**{name: torch.unflatten(part, 1, shape) for (name, shape), part in named})

    @staticmethod
    def _parts(given: Any, output: Mapping[str, Key]) -> list[Tensor]:
        parts = {name: _picked(given, key) for name, key in output.items()}
        wrong = [f"`{name}` is a {type(part).__name__}" for name, part in parts.items() if not isinstance(part, Tensor)]
        if wrong:
            raise TypeError(f"each output must be a tensor; {', '.join(wrong)}")
        return [part[:, None] if part.dim() == 1 else part.flatten(1) for part in parts.values()]


class Units(nn.Module):
    """Each number times a factor, plus a summand: from what is trained to the targets' own units. Neither is trained.

    Args:
        width: How many numbers there are.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(width))
        self.register_buffer("bias", torch.zeros(width))

    def forward(self, x_BO: Tensor) -> Tensor:
        scaled: Tensor = x_BO * self.weight + self.bias
        return scaled


def _picked(given: Any, key: Key) -> Any:
    """Return one of the things that a module gives.

    Raises:
        InputError: It gives no such thing.
    """
    if isinstance(given, Mapping):
        there: list[Any] = list(given)
    elif isinstance(key, int):
        there = list(range(len(given))) if isinstance(given, Sequence) else []
    else:
        there = list(getattr(given, "_fields", getattr(given, "__dict__", ())))
        if hasattr(given, key):
            return getattr(given, key)
    if key in there:
        return given[key]
    what = f"it gives {', '.join(map(str, there))}" if there else f"it gives a {type(given).__name__}"
    raise InputError(f"The module gives no output {key!r}; {what}.{did_you_mean(str(key), list(map(str, there)))}")


def _named(output: Sequence[str] | Mapping[str, Key]) -> list[list[Key]]:
    """Return several outputs as pairs of name and key, as JSON can hold them and in their order.

    Raises:
        InputError: A name cannot be that of a column, or comes twice.
    """
    given: list[Any] = list(output.items()) if isinstance(output, Mapping) else [(name, name) for name in output]
    pairs: list[list[Key]] = [[name, key] for name, key in given]
    names = [name for name, _ in pairs]
    wrong = [name for name in names if not (isinstance(name, str) and name.isidentifier())]
    if wrong or not names or len(set(names)) < len(names):
        raise InputError(
            "Several outputs must have names of letters, digits and underscores, each its own, such as "
            f"output=['kind', 'height'] or output={{'kind': 0, 'height': 1}}; got {output!r}."
        )
    return pairs


def inputs_of(network: TorchNetwork) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the inputs of a network that has several; empty where there is one."""
    first = next(iter(network.module.children()), None)
    return dict(first.inputs) if isinstance(first, Adapted) else {}


def outputs_of(network: Network) -> dict[str, int]:
    """Return the outputs of a network that has several, by name: how many numbers each has, in the vector's order.

    Empty where there is one, or a head that takes them all.
    """
    children = list(network.module.children()) if isinstance(network, TorchNetwork) else []
    return dict(children[0].widths) if len(children) == 1 and isinstance(children[0], Adapted) else {}


def build(
    factory: str,
    arguments: Mapping[str, Any],
    inputs: Sequence[Any],
    output: Key | Sequence[Sequence[Key]] | None = None,
) -> Architecture:
    """Call a factory; see `from_factory`. Several inputs are pairs of name and shape, several outputs of name and key.

    Raises:
        InputError: It cannot be imported or called, or does not give a module.
        ModelError: It is not trusted.
    """
    if not _is_trusted(factory):
        raise ModelError(
            f"The network is built by `{factory}`, a function that is not part of the model. If you trust it, say so "
            f"before loading: sparkwright.trust({factory!r}), or {FACTORIES}={factory} in the environment (of the "
            "executors too, where they load it)."
        )
    function = import_factory(factory)
    try:
        module = function(**arguments)
    except Exception as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise InputError(f"The factory `{factory}` failed with ({given}): {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"The factory `{factory}` must give a torch.nn.Module; it gave a {type(module).__name__}.")
    named = dict(inputs) if inputs and not isinstance(inputs[0], int) else {}
    if named or output is not None:
        shape = (sum(math.prod(shape) for shape in named.values()),) if named else tuple(inputs)
        one_or_more: Key | Mapping[str, Key] | None = (
            output if isinstance(output, str | int | None) else {str(own): key for own, key in output}
        )
        adapted = Adapted(module, named, one_or_more)
        adapted.measure(shape)
        return Architecture(Layers(OrderedDict(module=adapted)), shape, {})
    is_plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module)
    layers = OrderedDict(module.named_children()) if is_plain else OrderedDict(module=module)
    return Architecture(Layers(layers), tuple(inputs), {})


def import_factory(factory: str) -> Callable[..., Any]:
    """Return the function that a dotted name stands for.

    Raises:
        InputError: No such module or function; says what was tried and, of a function, which there are.
    """
    _check_name(factory)
    module_name, _, path = factory.partition(":")
    try:
        found: Any = import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"The factory `{factory}` cannot be imported: {type(error).__name__}: {error}. Its module must be "
            "installed, or on the PYTHONPATH, of the driver and of the executors; "
            "spark.addArtifact('file.py', pyfile=True) sends a file there."
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise InputError(f"The module `{module_name}` has no `{path}`.{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"The factory `{factory}` must be a function or a class; it is a {type(found).__name__}.")
    function: Callable[..., Any] = found
    return function


def _check_name(factory: object) -> None:
    if not isinstance(factory, str) or not _NAME.fullmatch(factory):
        raise InputError(
            f"A factory must be named as `package.module:function`; got {factory!r}. A function itself would travel "
            "as a pickle; its name does not."
        )


def check_export(network: TorchNetwork) -> None:
    """Refuse a network of a factory that cannot be exported to ONNX, without which no model of it can be saved.

    Takes seconds for a network that no process of this machine has exported before, with the weights that it has.

    Raises:
        InputError: It cannot be exported; says why.
    """
    if not network.is_foreign:
        return
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch shows the graphs that it fails on
            network.to_onnx()
    except Exception as error:
        cause = error.__cause__ or error
        reason = next(iter(str(cause).strip().splitlines()), "")
        raise InputError(
            f"The network `{network.name}` cannot be exported to ONNX, which a model of it is saved and scored as: "
            f"{type(cause).__name__}: {reason}\nIts `forward` must be traceable by torch.export for batches of any "
            "size: no branches on values of tensors, and operations that torch.onnx.export knows."
        ) from error


def trust(*names: str) -> None:
    """Let models that this process loads be built by these factories (``package.module:function``), or any of a module.

    Only name what you would run yourself: loading such a model runs it.
    """
    _trusted.update(names)


def factories_of(spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield the factories that the spec of a network names."""
    for part in spec.get("parts", ()):
        if part["build"] == "factory":
            yield part["options"]["factory"]


def _shown(inputs: Sequence[int] | Mapping[str, Sequence[int]]) -> str:
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name}={tuple(shape)}" for name, shape in inputs.items())
    return str(tuple(inputs))


def _is_trusted(factory: str) -> bool:
    named = {name.strip() for name in os.environ.get(FACTORIES, "").split(",")} | _trusted
    return factory in named or factory.partition(":")[0] in named
