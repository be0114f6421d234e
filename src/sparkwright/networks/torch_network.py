"""Networks made of torch's layers: nested `Sequential`s with named children.

Because a network is a nested Sequential, every layer has a name, cutting is leaving out what comes behind, and the
parameters' names are paths (``features.0.weight``), equal to torchvision's. Blocks with several ways through them
(residual, fire, inverted residual) are leaves.
"""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparkwright.errors import InputError, ModelError
from sparkwright.networks.network import Network, Shape, find_layer, read_precision, spec_digest
from sparkwright.networks.preprocessing import AnyPreprocessing, as_preprocessing

if TYPE_CHECKING:
    from sparkwright.networks.summary import Summary

__all__ = ["Architecture", "Layers", "Part", "Taps", "TorchNetwork"]

# BatchNorm's counter of batches: no output depends on it (momentum is fixed), and many published files lack it.
_COUNTER = "num_batches_tracked"

FACTORY = "factory"
"""The architecture that is a function of the user's."""


class Layers(nn.Sequential):
    """A Sequential whose frozen layers stay in inference mode and need no gradient.

    In training mode BatchNorm would move its running statistics although its weights are frozen; here it does not.
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        self.frozen: frozenset[str] = frozenset()

    def freeze(self, names: frozenset[str]) -> None:
        """Make exactly the layers of these paths frozen, with all that is inside them."""
        self.frozen = names
        self.requires_grad_(True)
        for name in names:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).eval()
        return self


@dataclass(frozen=True)
class Architecture:
    """What a catalogue file builds.

    Attributes:
        module: The layers, initialised.
        input_shape: Shape of one input.
        aliases: Short names of layers → their paths.
        feature_layer: Path of the layer that feeds the classifier.
    """

    module: Layers
    input_shape: Shape
    aliases: Mapping[str, str]
    feature_layer: str | None = None


@dataclass(frozen=True)
class Part:
    """A stretch of a network: an architecture of the catalogue with its options.

    Attributes:
        build: Name of the architecture.
        options: What it is built with.
        layer: Where it is cut; None: whole.
        child: Name under which the stretch hangs in the network; empty for the first, whose layers are the network's.
    """

    build: str
    options: Mapping[str, Any]
    layer: str | None = None
    child: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {"build": self.build, "options": dict(self.options), "layer": self.layer, "child": self.child}


@dataclass(frozen=True, eq=False)
class TorchNetwork(Network):
    """A network of torch's layers; see `Network`.

    It is made by `load_network`, `mlp` or `from_spec`, not by its constructor. It is never changed: `to_module` gives
    a copy to train and `with_weights` takes the result back.

    Example:
        >>> from sparkwright.networks.mlp import mlp
        >>> network = mlp(4, 3, hidden=[8])
        >>> network.layers
        ('hidden1', 'act1', 'output')
        >>> network.cut("act1").output_shape
        (8,)
    """

    parts: tuple[Part, ...]
    module: Layers
    aliases: Mapping[str, str]
    _input_shape: Shape

    @classmethod
    def build(
        cls,
        name: str,
        build: str,
        options: Mapping[str, Any],
        seed: int = 0,
        weights: Mapping[str, Any] | None = None,
        preprocessing: AnyPreprocessing | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> "TorchNetwork":
        """Build an architecture with random weights of `seed`, or with the given ones.

        Raises:
            ModelError: The weights do not fit the architecture.
        """
        network = cls._skeleton(name, Part(build, dict(options)), None if weights is not None else seed)
        network = replace(network, preprocessing=preprocessing, classes=classes)
        return network if weights is None else network.with_weights(weights)

    @classmethod
    def _skeleton(cls, name: str, part: Part, seed: int | None) -> "TorchNetwork":
        """Build one part, with the random weights of `seed`, or (None) without weights, on the meta device."""
        architecture = _construct(part, seed)
        network = cls(
            name=name,
            preprocessing=None,
            classes=None,
            layer=_last(architecture.module),
            feature_layer=architecture.feature_layer,
            frozen=frozenset(),
            parts=(replace(part, layer=None, child=""),),
            module=architecture.module.eval(),
            aliases=architecture.aliases,
            _input_shape=architecture.input_shape,
        )
        return network if part.layer is None else network.cut(part.layer)

    @classmethod
    def _assembled(cls, name: str, parts: Sequence[Part]) -> "TorchNetwork":
        """Build the parts and join them, without weights, on the meta device."""
        network = cls._skeleton(name, parts[0], None)
        for part in parts[1:]:
            network = network._joined(cls._skeleton(name, part, None), part.child)
        return network

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], weights: Mapping[str, Any]) -> "TorchNetwork":
        """Rebuild from `to_spec` and `weights`; see `sparkwright.networks.network.from_spec`."""
        try:
            network = cls._assembled(spec["name"], [Part(**part) for part in spec["parts"]])
            preprocessing = spec["preprocessing"]
            network = replace(
                network.with_weights(weights),
                classes=tuple(spec["classes"]) if spec["classes"] else None,
                feature_layer=spec["feature_layer"],
                precision=read_precision(spec),
                preprocessing=as_preprocessing(preprocessing) if preprocessing else None,
            )
            return network._with_frozen(frozenset(spec["frozen"]))
        except (KeyError, TypeError, IndexError) as error:
            raise ModelError(f"The description of a network is damaged: {error!r}.") from error

    @property
    def input_shape(self) -> Shape:
        return self._input_shape

    @property
    def is_foreign(self) -> bool:
        """Whether a function outside the library builds some of it: see `sparkwright.networks.factory`."""
        return any(part.build == FACTORY for part in self.parts)

    @cached_property
    def output_shape(self) -> Shape:
        if self.is_foreign:
            return self.forward(np.zeros((1, *self.input_shape), np.float32)).shape[1:]
        # An empty batch computes shapes alone. The meta device would too, but imports torch's compiler: a second.
        weight = next(iter(self.module.state_dict().values()), torch.empty(0))
        with torch.no_grad():
            output = self.module(torch.empty((0, *self.input_shape), device=weight.device))
        if not isinstance(output, Tensor):
            raise InputError(
                f"The network `{self.name}` cut at `{self.layer}` gives sequences. Cut it at `pool` or behind it, "
                "where its output is a vector."
            )
        return tuple(output.shape[1:])

    @cached_property
    def _paths(self) -> tuple[str, ...]:
        return tuple(_walk(self.module))

    @property
    def layers(self) -> tuple[str, ...]:
        return (*(alias for alias in self.aliases if alias not in self._paths), *self._paths)

    def cut(self, layer: str) -> "TorchNetwork":
        path = find_layer(layer, self._paths, self.aliases, self.name)
        if _deepest(self.module, path) == _deepest(self.module, self.layer):
            return self
        module = _truncated(self.module, path.split("."))
        kept = {name for name, _ in module.named_modules()}
        network = replace(
            self,
            module=module,
            layer=path,
            parts=_cut_parts(self.parts, path),
            aliases={alias: target for alias, target in self.aliases.items() if target in kept},
            classes=None,
            feature_layer=None,
        )
        return network._with_frozen(frozenset(name for name in self.frozen if name in kept))

    def with_head(self, head: Network) -> "TorchNetwork":
        if not isinstance(head, TorchNetwork):
            raise InputError(f"The head on the torch network `{self.name}` must be of torch too; got `{head.name}`.")
        if len(head.parts) != 1:
            raise InputError(f"The head `{head.name}` has heads of its own; put them on the network one by one.")
        width = int(np.prod(self.output_shape))
        if head.input_shape not in (self.output_shape, (width,)):
            raise InputError(
                f"The head `{head.name}` takes inputs of shape {head.input_shape}; the network `{self.name}` cut at "
                f"`{self.layer}` gives {self.output_shape}."
            )
        count = sum(part.build != "flatten" for part in self.parts)
        child = "head" if count == 1 else f"head{count}"
        body = self
        if head.input_shape != self.output_shape:
            flatten = Part("flatten", {"shape": list(self.output_shape)})
            body = self._joined(self._skeleton("flatten", flatten, seed=0), f"{child}_flatten")
        return replace(body._joined(head, child), feature_layer=self.layer)

    def _joined(self, head: "TorchNetwork", child: str) -> "TorchNetwork":
        """Hang `head` behind this network, under the name `child`."""
        aliases = {alias: f"{child}.{path}" for alias, path in head.aliases.items() if alias not in self.aliases}
        network = replace(
            self,
            module=Layers(OrderedDict([*self.module.named_children(), (child, head.module)])).eval(),
            layer=f"{child}.{head.layer}",
            parts=(*self.parts, replace(head.parts[0], child=child)),
            classes=head.classes,
            feature_layer=self.layer,
            aliases={**self.aliases, **aliases},
        )
        return network._with_frozen(self.frozen | {f"{child}.{name}" for name in head.frozen})

    def without_heads(self) -> "TorchNetwork":
        """Return the network up to where its first head sits; itself if there is none."""
        return self if len(self.parts) == 1 else self.cut(self.parts[0].layer or _body_end(self))

    def freeze(self, until: str | None = None) -> "TorchNetwork":
        path = self.layer if until is None else self._find_inside(until)
        paths = list(self._paths)
        block = path if path in paths else max((name for name in paths if path.startswith(f"{name}.")), key=len)
        last = paths.index(_deepest(self.module, block))
        leaves = {name for name in paths[: last + 1] if not isinstance(self.module.get_submodule(name), nn.Sequential)}
        if path != block:
            leaves = leaves - {block} | _earlier(self.module, block, path) | {path}
        return self._with_frozen(self.frozen | leaves)

    def unfreeze(self, from_: str | None = None) -> "TorchNetwork":
        if from_ is None:
            return self._with_frozen(frozenset())
        path = self._find_inside(from_)
        order = {name: place for place, (name, _) in enumerate(self.module.named_modules())}
        around = {name for name in self.frozen if path.startswith(f"{name}.")}
        kept = {name for name in self.frozen - around if order[name] < order[path]}
        for name in around:
            kept |= _earlier(self.module, name, path)
        return self._with_frozen(frozenset(kept))

    def _find_inside(self, layer: str) -> str:
        """Return the path of a layer, or of a module inside one, which cannot be cut there but frozen."""
        inside = [name for name, _ in self.module.named_modules() if name]
        return layer if layer in inside else find_layer(layer, self._paths, self.aliases, self.name)

    def _with_frozen(self, frozen: frozenset[str]) -> "TorchNetwork":
        unknown = sorted(frozen - {name for name, _ in self.module.named_modules()})
        if unknown:
            raise ModelError(f"The network `{self.name}` has no layer(s) {unknown} to freeze.")
        return replace(self, frozen=frozen)

    def summary(self) -> "Summary":
        from sparkwright.networks.summary import summarise_torch

        return summarise_torch(self)

    @cached_property
    def _digest(self) -> str:
        structure = {
            "builds": [[part.build, dict(part.options), part.child] for part in self.parts],
            "leaves": [path for path in self._paths if not isinstance(self.module.get_submodule(path), nn.Sequential)],
            "preprocessing": self.preprocessing.plain.to_dict() if self.preprocessing else None,
        }
        if self.precision:
            structure["precision"] = self.precision.name
        digest = hashlib.sha256(spec_digest(structure))
        for name, value in sorted(self.module.state_dict().items()):
            if not name.endswith(_COUNTER):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
                digest.update(value.detach().contiguous().numpy().data)
        return digest.hexdigest()

    def fingerprint(self) -> str:
        return self._digest

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self.precision is not None):
            values: NDArray[np.float32] = self.module(torch.from_numpy(np.ascontiguousarray(batch))).float().numpy()
        return values

    def to_onnx(self) -> bytes:
        from sparkwright.networks.export import export_torch

        return export_torch(self)

    def to_spec(self) -> dict[str, Any]:
        return {"kind": "torch", **self._spec_head(), "parts": [part.to_dict() for part in self.parts]}

    def weights(self) -> dict[str, NDArray[Any]]:
        return {name: value.detach().numpy() for name, value in self.module.state_dict().items()}

    def part_weights(self, part: Part) -> dict[str, NDArray[Any]]:
        """Return the weights of one of `parts`, under the names that they have in that part alone."""
        others = tuple(f"{other.child}." for other in self.parts if other.child)
        return {
            name.removeprefix(f"{part.child}."): value
            for name, value in self.weights().items()
            if (name.startswith(f"{part.child}.") if part.child else not name.startswith(others or (" ",)))
        }

    def with_weights(self, weights: Mapping[str, NDArray[Any] | Tensor]) -> "TorchNetwork":
        """Return the network with other weights: all of them, by name; copied.

        Raises:
            ModelError: A weight is missing, unknown, or of another shape.
        """
        expected = self.module.state_dict()
        _check_weights(self.name, expected, weights)
        state = {}
        for name, old in expected.items():
            given = weights.get(name)
            if given is None:  # only BatchNorm's counters may be missing
                state[name] = torch.zeros(old.shape, dtype=old.dtype)
            else:
                value = given.detach() if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
                state[name] = value.to(device="cpu", dtype=old.dtype, copy=isinstance(given, Tensor))
        module = copy.deepcopy(self.module)
        module.load_state_dict(state, assign=True)
        return replace(self, module=module.eval())

    def skeleton(self) -> Layers:
        """Return the layers without weights, on the meta device: it costs nothing and computes shapes."""
        return self._assembled(self.name, self.parts).module

    def to_module(self) -> Layers:
        """Return a copy of the layers, to train or to take apart; frozen layers stay frozen in it."""
        module = copy.deepcopy(self.module)
        module.freeze(self.frozen)
        return module


class Taps(nn.Module):
    """Several layers of a network in one pass: their outputs, flattened, behind one another.

    Args:
        network: It is cut behind the last of the layers.
        layers: Their names, as `TorchNetwork.cut` takes them.

    Raises:
        NameUnknownError: no such layer.
    """

    def __init__(self, network: TorchNetwork, layers: Sequence[str]) -> None:
        super().__init__()
        found = (find_layer(layer, network._paths, network.aliases, network.name) for layer in layers)
        self._wanted = [_deepest(network.module, path) for path in found]
        last = max(self._wanted, key=network._paths.index)
        self.layers = network.cut(last).to_module()

    def forward(self, x: Tensor) -> Tensor:
        kept: dict[str, Tensor] = {}
        self._run(self.layers, "", x, kept)
        steps = [path for path in self._wanted if not isinstance(kept[path], Tensor)]
        if steps:
            raise InputError(f"{', '.join(steps)}: these layers give sequences. Take `pool` or layers behind it.")
        return torch.cat([kept[path].flatten(1).float() for path in self._wanted], 1)

    def _run(self, layers: nn.Sequential, prefix: str, x: Tensor, kept: dict[str, Tensor]) -> Tensor:
        for name, layer in layers.named_children():
            path = prefix + name
            x = self._run(layer, f"{path}.", x, kept) if isinstance(layer, nn.Sequential) else layer(x)
            if path in self._wanted:
                kept[path] = x
        return x


def build_flatten(shape: Sequence[int]) -> Architecture:
    """Build the layer that makes a vector of maps, between a network and a head."""
    return Architecture(Layers(OrderedDict(flatten=nn.Flatten(1))), tuple(shape), {})


def _construct(part: Part, seed: int | None) -> Architecture:
    from sparkwright.networks.catalogue import builder

    build = builder(part.build)
    # What a factory builds may hold tensors that are not in its state: on the meta device they would have no values.
    if seed is None and part.build != FACTORY:
        with torch.device("meta"):
            return build(**part.options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        return build(**part.options)


def _check_weights(name: str, expected: Mapping[str, Tensor], given: Mapping[str, Any]) -> None:
    missing = [key for key in expected if key not in given and not key.endswith(_COUNTER)]
    unknown = [key for key in given if key not in expected]
    shapes = [
        f"{key}: {tuple(given[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in given and tuple(given[key].shape) != tuple(value.shape)
    ]
    problems = [
        f"{what} {', '.join(items[:5])}{' …' if len(items) > 5 else ''} ({len(items)})"
        for what, items in (("missing:", missing), ("unknown:", unknown), ("other shapes:", shapes))
        if items
    ]
    if problems:
        raise ModelError(f"The weights do not fit the network `{name}`; {'; '.join(problems)}.")


def _walk(module: nn.Sequential, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all layers, a Sequential before its children."""
    for name, child in module.named_children():
        yield prefix + name
        if isinstance(child, nn.Sequential):
            yield from _walk(child, f"{prefix}{name}.")


def _last(module: nn.Module) -> str:
    return next(reversed(OrderedDict(module.named_children())))


def _deepest(module: nn.Module, path: str) -> str:
    """Return the innermost layer with the same output: the last child of a Sequential, and so on."""
    inner = module.get_submodule(path)
    while isinstance(inner, nn.Sequential) and len(inner):
        name = _last(inner)
        path, inner = f"{path}.{name}", inner.get_submodule(name)
    return path


def _body_end(network: TorchNetwork) -> str:
    """Return the last layer before the first head."""
    names = [name for name, _ in network.module.named_children()]
    return names[names.index(network.parts[1].child) - 1]


def _earlier(module: nn.Module, block: str, path: str) -> set[str]:
    """Return the paths of what is registered in a block before `path`, in pieces as large as can be."""
    names, at = set(), block
    for step in path.removeprefix(f"{block}.").split("."):
        for child, _ in module.get_submodule(at).named_children():
            if child == step:
                break
            names.add(f"{at}.{child}")
        at = f"{at}.{step}"
    return names


def _truncated(module: nn.Sequential, path: list[str]) -> Layers:
    """Copy a Sequential up to a path; the layers themselves are shared."""
    children: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in module.named_children():
        if name == path[0]:
            children[name] = _truncated(child, path[1:]) if len(path) > 1 else child  # type: ignore[arg-type]
            break
        children[name] = child
    return Layers(children).eval()


def _cut_parts(parts: tuple[Part, ...], path: str) -> tuple[Part, ...]:
    """Describe the network cut at `path`: the parts before it, and the one that it lies in, cut."""
    for index in range(len(parts) - 1, 0, -1):
        child = parts[index].child
        if path == child:
            return parts[: index + 1]
        if path.startswith(f"{child}."):
            return (*parts[:index], replace(parts[index], layer=path.removeprefix(f"{child}.")))
    return (replace(parts[0], layer=path),)
