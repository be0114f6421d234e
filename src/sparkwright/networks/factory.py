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
from sparkwright.networks.torch_network import Architecture, Layers, TorchNetwork

if TYPE_CHECKING:
    from sparkwright.networks.preprocessing import Preprocessing

__all__ = [
    "FACTORIES",
    "Adapted",
    "build",
    "check_export",
    "factories_of",
    "from_factory",
    "import_factory",
    "inputs_of",
    "trust",
]

FACTORIES = "SPARKWRIGHT_FACTORIES"
"""Environment variable: the factories, or modules of factories, that models may name; separated by commas."""

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_trusted: set[str] = set()


def from_factory(
    factory: str,
    inputs: Sequence[int] | Mapping[str, Sequence[int]],
    arguments: Mapping[str, Any] | None = None,
    *,
    output: str | int | None = None,
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
    vector, one after the other: columns of numbers, named in the inputs' order, are that.

    All parameters train that are not frozen by name (`Network.freeze`), whatever their ``requires_grad`` says.

    Runs the function in this process. Processes of the cluster run it too, so they must be able to import it.

    Args:
        factory: ``"package.module:function"``; a class will do. It must give a new module at each call.
        inputs: Shape of one input, without the batch; or of several, by the names that ``forward`` has for them. All
            are float32.
        arguments: The function's keyword arguments, as JSON can hold them.
        output: Which of the things that ``forward`` gives is the output, where it gives several: its key, attribute or
            index.
        name: Of the network; by default the function's.
        seed: Of torch's random numbers while the function runs.
        weights: By name, instead of those that the function gives.
        preprocessing: From an image's bytes to the input; None where the input is not an image.
        classes: Names of the outputs.

    Raises:
        InputError: The function cannot be imported or called, or its arguments not be held by JSON; it does not give a
            module, or gives one that has no trainable parameters or does not take such inputs.

    Example:
        >>> from_factory("torch.nn:Linear", (4,), {"in_features": 4, "out_features": 3}).output_shape
        (3,)
    """
    _check_name(factory)
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
        options["output"] = output
    title = name or factory.rpartition(":")[2].rpartition(".")[2]
    network = TorchNetwork.build(title, "factory", options, seed, weights)
    if not any(parameter.numel() for parameter in network.module.parameters()):
        raise InputError(f"What the factory `{factory}` gives has no parameters, so there is nothing to train.")
    try:
        _ = network.output_shape
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
        output: Key, attribute or index of the output among what it gives; None: it gives the output itself.
    """

    def __init__(self, module: nn.Module, inputs: Mapping[str, Sequence[int]], output: str | int | None = None) -> None:
        super().__init__()
        self.inner = module
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.output = output

    def forward(self, x_BF: Tensor) -> Tensor:
        given: Any
        if self.inputs:
            parts = torch.split(x_BF, [math.prod(shape) for shape in self.inputs.values()], dim=1)
            named = zip(self.inputs.items(), parts, strict=True)
            given = self.inner(**{name: torch.unflatten(part, 1, shape) for (name, shape), part in named})
        else:
            given = self.inner(x_BF)
        if self.output is not None:
            key: Any = self.output
            given = given[key] if isinstance(given, Mapping | Sequence) else getattr(given, key)
        if not isinstance(given, Tensor):
            raise TypeError(f"it gives a {type(given).__name__}, not a tensor; say which part is the `output`")
        return given


def inputs_of(network: TorchNetwork) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the inputs of a network that has several; empty where there is one."""
    first = next(iter(network.module.children()), None)
    return dict(first.inputs) if isinstance(first, Adapted) else {}


def build(
    factory: str, arguments: Mapping[str, Any], inputs: Sequence[Any], output: str | int | None = None
) -> Architecture:
    """Call a factory; see `from_factory`. Several inputs are pairs of name and shape.

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
        return Architecture(Layers(OrderedDict(module=Adapted(module, named, output))), shape, {})
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
