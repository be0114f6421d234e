"""What a training trains: a head on features, or a whole network.

The training loop knows a module of torch and the readers of its rows; a `Subject` knows where they come from and what
the trained weights become. It travels to the executors as a file, never in a closure.
"""

import hashlib
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save
from torch import nn

from sparkwright.errors import InputError, NameUnknownError, did_you_mean
from sparkwright.models import Model
from sparkwright.networks.factory import check_export, factories_of, inputs_of, outputs_of, trust
from sparkwright.networks.mlp import Standardise, mlp
from sparkwright.networks.network import Network
from sparkwright.networks.torch_network import TorchNetwork
from sparkwright.session import ship_file, shipped_path
from sparkwright.training.config import TrainingConfig, label_text
from sparkwright.training.initial import Initial
from sparkwright.training.replica.layer_rates import rate_factors
from sparkwright.training.replica.unfreezing import first_epochs
from sparkwright.training.rows.columns import Columns, is_text
from sparkwright.training.rows.moments import Moments
from sparkwright.training.rows.population import AllowedClasses, Population
from sparkwright.training.rows.readers import NUMBERS, ImageReader, Reader, make_reader
from sparkwright.training.tasks import Several, Task

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Head", "Subject", "WholeNetwork", "allowed_classes", "build_head", "load_subject"]


class Subject(ABC):
    """What is trained, the same in every process.

    Attributes:
        classes: Labels that it has outputs for, in their order; None where the rows tell them.
    """

    classes: tuple[str, ...] | None

    @property
    @abstractmethod
    def reader(self) -> Reader:
        """What reads its rows."""

    def for_column(self, types: pa.Schema, columns: Columns) -> "Subject":  # noqa: ARG002
        """Return what takes rows from columns of these types."""
        return self

    @property
    def specs(self) -> list[dict[str, Any]]:
        """What `Network.to_spec` says of the networks in it."""
        return []

    def named(self, config: TrainingConfig) -> TrainingConfig:
        """Return the configuration with layers under the names that they have in `module`."""
        return config

    def check(self, config: TrainingConfig) -> None:
        """Check the layers and the outputs that a configuration names, before any row is there.

        Raises:
            InputError: A layer is not there, or has no weights that train; the network has other outputs.
        """
        if config.unfreeze or config.layer_rates:
            config, module = self.named(config), self.layers(config)
            first_epochs(module, config.unfreeze)
            rate_factors(module, config)

    @abstractmethod
    def layers(self, config: TrainingConfig) -> nn.Module:
        """Return the layers, frozen ones frozen: those that `module` has, though the rows may make these wider."""

    @abstractmethod
    def standardises(self, config: TrainingConfig) -> bool:
        """Whether `module` needs the moments of the features."""

    @abstractmethod
    def module(self, config: TrainingConfig, population: Population, task: Task, moments: Moments) -> nn.Module:
        """Return the layers with their first weights, frozen ones frozen.

        Raises:
            InputError: The rows are of another shape than it takes, or have more classes than it has outputs.
        """

    @abstractmethod
    def output(self, module: nn.Module) -> nn.Module | None:
        """Return the linear layer that gives the module's output; None if there is none, or if it is frozen."""

    @abstractmethod
    def trained(
        self, config: TrainingConfig, weights: Mapping[str, NDArray[Any]], classes: tuple[str, ...]
    ) -> tuple[TorchNetwork | None, TorchNetwork | None]:
        """Return the trained network, None for a head alone, and the trained head, None where the network has all.

        Args:
            config: How it was trained.
            weights: Of the module, by name.
            classes: In the order of the outputs; empty in a regression.
        """

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Return it as `load_subject` reads it; empty where there is nothing to tell."""

    def asked(self) -> dict[str, Any]:
        """Return what a run's configuration says of it."""
        return {}

    def fingerprint(self) -> dict[str, str]:
        """Return what tells its first weights from others, as an entry of the training's fingerprint."""
        content = self.to_bytes()
        return {"initial": hashlib.sha256(content).hexdigest()[:16]} if content else {}

    def ship(self, spark: "SparkSession") -> str | None:
        """Send it to the executors; return what `load_subject` finds it by there."""
        content = self.to_bytes()
        if not content:
            return None
        with tempfile.TemporaryDirectory(prefix="sparkwright-") as folder:
            path = Path(folder) / "subject.safetensors"
            path.write_bytes(content)
            return ship_file(spark, path)


@dataclass(frozen=True)
class Head(Subject):
    """Layers on features that the configuration describes and the rows' width completes.

    Args:
        initial: Weights to begin with; None draws them.
    """

    initial: Initial | None = None

    @property
    def classes(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Labels of the model that it goes on from; None where the rows tell them."""
        return self.initial.classes or None if self.initial is not None else None

    @property
    def reader(self) -> Reader:
        return NUMBERS

    def layers(self, config: TrainingConfig) -> nn.Module:
        return build_head(config, 1, 1).to_module()

    def standardises(self, config: TrainingConfig) -> bool:
        return config.standardise

    def module(self, config: TrainingConfig, population: Population, task: Task, moments: Moments) -> nn.Module:
        module = build_head(config, population.width, task.outputs).to_module()
        if self.initial is not None:
            if self.initial.width != population.width:
                raise InputError(
                    f"The rows have {population.width} features; the model to go on from takes {self.initial.width}."
                )
            if len(self.initial.weights["output.bias"]) != task.outputs:
                raise InputError(
                    f"The training has {task.outputs} outputs a row; the model to go on from has "
                    f"{len(self.initial.weights['output.bias'])}."
                )
            module.load_state_dict({name: torch.from_numpy(value) for name, value in self.initial.weights.items()})
            task.begin(module.get_submodule("output"))  # type: ignore[arg-type]
        elif config.standardise:
            layer = module.get_submodule("standardise")
            if isinstance(layer, Standardise):
                layer.mean.copy_(torch.from_numpy(moments.mean_F))
                layer.scale.copy_(torch.from_numpy(moments.scale_F))
        return module

    def output(self, module: nn.Module) -> nn.Module:
        return module.get_submodule("output")

    def trained(
        self, config: TrainingConfig, weights: Mapping[str, NDArray[Any]], classes: tuple[str, ...]
    ) -> tuple[None, TorchNetwork]:
        width = weights["hidden1.weight" if config.hidden else "output.weight"].shape[1]
        head = build_head(config, width, weights["output.weight"].shape[0]).with_weights(weights)
        return None, head.with_classes(classes) if classes else head

    def to_bytes(self) -> bytes:
        return self.initial.to_bytes() if self.initial is not None else b""

    def asked(self) -> dict[str, Any]:
        return self.fingerprint()


@dataclass(frozen=True, eq=False)
class WholeNetwork(Subject):
    """A network with its preprocessing, its weights and its frozen layers, and the head on it.

    Made by `of`; training goes on from all weights that there are.

    Args:
        body: The network; all of it, if it has no head of its own.
        head: What it has on top, and goes on from; None: nothing, or a new one.
        new_head: Whether it gets a new head, built as the configuration says and as wide as there are classes.
        goes_on: Whether its outputs are in the target's own units already, as those of a trained model are.
        frozen: Layers of body and head, as one network, that stay as they are.
        classes: Labels that it has outputs for; None where the rows tell them.
        located: Whether rows hold paths, not the files' bytes.
    """

    body: TorchNetwork
    head: TorchNetwork | None = None
    new_head: bool = False
    goes_on: bool = False
    frozen: frozenset[str] = frozenset()
    classes: tuple[str, ...] | None = None
    located: bool = False

    @staticmethod
    def of(what: Model | Network, *, new_head: bool = False, train_from: str | None = None) -> "WholeNetwork":
        """Return what a training of a model, or of a network, trains.

        Args:
            what: A model goes on with its head and its classes. A network has its classes as outputs, or gets a new
                head: where it is cut, else instead of its classifier.
            new_head: Whether a network gets a new head.
            train_from: The first layer that trains: all before it are frozen. ``"all"`` freezes none, ``"head"`` all
                but a new head; None leaves frozen what is.

        Raises:
            InputError: It is no network of torch, or one of a factory of which no model can be saved; or all of its
                layers are frozen.
            NameUnknownError: There is no layer `train_from`.
        """
        model = what if isinstance(what, Model) else None
        if model is not None and model.outputs:
            raise InputError(
                "A training does not go on from a model of several outputs yet: train its network, `model.full`."
            )
        body, head = (what, None) if isinstance(what, Network) else (what.network or what.head, what.head)
        if not isinstance(body, TorchNetwork) or not isinstance(head, TorchNetwork | None):
            raise InputError(
                f"Only networks of torch's layers can be trained; `{body.name if body else ''}` runs as it is in ONNX "
                "Runtime. Take it from the catalogue, or import it as torch."
            )
        if body is head:  # a model of features is its head
            head = None
        if new_head:
            body, head = (body.cut(body.feature_layer) if body.feature_layer else body), None
        check_export(body)
        named = body.classes if model is None else model.classes
        whole = body if head is None else body.with_head(head)
        return WholeNetwork(
            body=body.unfreeze(),
            head=None if head is None else head.unfreeze(),
            new_head=new_head,
            goes_on=model is not None and not new_head,
            frozen=_frozen(whole, train_from, new_head=new_head),
            classes=tuple(map(label_text, named)) if named and not new_head else None,
        )

    @property
    def reader(self) -> Reader:
        return make_reader(self.body.preprocessing, self.body.input_shape, located=self.located)

    @property
    def specs(self) -> list[dict[str, Any]]:
        return [part.to_spec() for part in (self.body, self.head) if part is not None]

    def for_column(self, types: pa.Schema, columns: Columns) -> "WholeNetwork":
        """Return what takes photos' bytes from a binary column, and their paths from a column of text.

        Raises:
            InputError: The columns are the network's inputs in another order.
        """
        inputs = list(inputs_of(self.body))
        if inputs and list(columns.features) != inputs and set(columns.features) == set(inputs):
            raise InputError(
                f"The network `{self.body.name}` takes its inputs in the order {', '.join(inputs)}; the columns are "
                f"{', '.join(columns.features)}. Name them in that order."
            )
        type_ = types.field(columns.features[0]).type if columns.features[0] in types.names else None
        return replace(self, located=is_text(type_) if type_ is not None else False)

    def check(self, config: TrainingConfig) -> None:
        super().check(config)
        named, there = list(config.outputs or ()), list(self._outputs)
        if not there or named == there:
            return
        has = f"The network `{self.body.name}` has the outputs {', '.join(there)}"
        if not named:
            example = ", ".join(f"{name!r}: …" for name in there)
            raise InputError(f"{has}: say what each learns, TrainingConfig(outputs={{{example}}}).")
        unknown = [f"It has no output `{name}`.{did_you_mean(name, there)}" for name in named if name not in there]
        missing = [
            f"`{name}` learns nothing: say what, or leave it out of the network's `output`."
            for name in there
            if name not in named
        ]
        raise InputError.listing(
            f"{has}, in this order; the configuration's are {', '.join(named)}", unknown + missing or ["Sort them so."]
        )

    @property
    def _outputs(self) -> dict[str, int]:
        """The outputs that it has itself, by name: how wide each is; empty where one, or a head, gives all."""
        return outputs_of(self.body) if self.head is None and not self.new_head else {}

    def named(self, config: TrainingConfig) -> TrainingConfig:
        if not (config.unfreeze or config.layer_rates):
            return config
        aliases = self._joined(self._head(config, 1)).aliases
        begins, rates = config.unfreeze or {}, config.layer_rates or {}
        return config.replace(
            unfreeze={epoch: aliases.get(name, name) for epoch, name in begins.items()} or None,
            layer_rates={aliases.get(name, name): factor for name, factor in rates.items()} or None,
        )

    def layers(self, config: TrainingConfig) -> nn.Module:
        return self._joined(self._head(config, 1)).to_module()

    def standardises(self, config: TrainingConfig) -> bool:  # noqa: ARG002
        return False

    def module(self, config: TrainingConfig, population: Population, task: Task, moments: Moments) -> nn.Module:  # noqa: ARG002
        wanted = int(np.prod(self.body.input_shape))
        if self.reader.payload == "numbers" and self.reader.item_shape is None and population.width != wanted:
            shape = " x ".join(map(str, self.body.input_shape))
            raise InputError(
                f"The rows have {population.width:,} numbers; the network `{self.body.name}` takes {shape}, which is "
                f"{wanted:,}."
            )
        whole = self._joined(self._head(config, task.outputs))
        self._check_widths(task)
        if whole.output_shape != (task.outputs,):
            raise InputError(
                f"The network `{self.body.name}` gives outputs of shape {whole.output_shape}, but the labels want "
                f"{task.outputs}. Give it a new head."
            )
        module = whole.to_module()
        output = self.output(module)
        if "regression" in _tasks(config) and (output is None or output.bias is None):
            raise InputError(
                "A regression puts the targets' units into the last layer: it must be linear, have a bias, and train; "
                f"`{whole.layer}` of `{self.body.name}` is not so. Give it a new head."
            )
        if self.goes_on:
            task.begin(output)  # type: ignore[arg-type]
        return module

    def _check_widths(self, task: Task) -> None:
        """Refuse labels that want more or fewer numbers of an output than the network gives."""
        if not isinstance(task, Several):
            return
        wrong = [
            f"`{name}` gives {width}, and its labels want {task.parts[name].task.outputs}."
            for name, width in self._outputs.items()
            if width != task.parts[name].task.outputs
        ]
        if wrong:
            raise InputError.listing(
                f"Outputs of the network `{self.body.name}` are not as wide as they must be", wrong
            )

    def output(self, module: nn.Module) -> nn.Module | None:
        if self._outputs:
            return module.get_submodule(f"{self.body.layer}.units")
        if self.body.is_foreign and self.head is None and not self.new_head:
            return None  # nobody knows in which order its layers compute
        for layer in reversed([layer for layer in module.modules() if not list(layer.children())]):
            if not isinstance(layer, _SHAPING):
                there = isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.requires_grad
                return layer if there else None
        return None

    def trained(
        self, config: TrainingConfig, weights: Mapping[str, NDArray[Any]], classes: tuple[str, ...]
    ) -> tuple[TorchNetwork, TorchNetwork | None]:
        head, child = self._head(config, 1), ""
        if head is not None:
            child = self._joined(head).parts[-1].child
            own = {name.removeprefix(f"{child}."): v for name, v in weights.items() if name.startswith(f"{child}.")}
            if self.new_head:
                head = build_head(config.replace(standardise=False), head.input_shape[0], len(own["output.bias"]))
            own = head.weights() | own  # which lack counters of batches: these stay as they were
            head = replace(head, frozen=_below(self.frozen, child)).with_weights(own).with_classes(classes or None)
        known = self.body.weights()
        body = self.body.with_weights(known | {name: value for name, value in weights.items() if name in known})
        inside = {name for name, _ in body.module.named_modules()}
        body = replace(body, frozen=self.frozen & inside)
        return (body if head is not None or not classes else body.with_classes(classes)), head

    def to_bytes(self) -> bytes:
        facts = {
            "body": self.body.to_spec(),
            "head": self.head.to_spec() if self.head is not None else None,
            "new_head": self.new_head,
            "goes_on": self.goes_on,
            "frozen": sorted(self.frozen),
            "classes": self.classes,
            "located": self.located,
        }
        tensors = {f"body.{name}": value for name, value in self.body.weights().items()}
        if self.head is not None:
            tensors |= {f"head.{name}": value for name, value in self.head.weights().items()}
        # One entry: the order of several is not always the same.
        content: bytes = save(
            {name: np.asarray(value, order="C") for name, value in tensors.items()}, {_SUBJECT: json.dumps(facts)}
        )
        return content

    def asked(self) -> dict[str, Any]:
        augmentation = self.reader.preprocessing.augmentation if isinstance(self.reader, ImageReader) else None
        facts = {"network": self.body.name, "new_head": self.new_head, "frozen": sorted(self.frozen)}
        return facts | ({"augmentation": augmentation.to_dict()} if augmentation is not None else {})

    @staticmethod
    def from_parts(facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> "WholeNetwork":
        """Rebuild from what `to_bytes` put together."""

        def part(name: str) -> TorchNetwork:
            trust(*factories_of(facts[name]))  # the driver of this training has named them
            own = {key.removeprefix(f"{name}."): v for key, v in tensors.items() if key.startswith(f"{name}.")}
            return TorchNetwork.from_spec(facts[name], own)

        return WholeNetwork(
            body=part("body"),
            head=part("head") if facts["head"] is not None else None,
            new_head=facts["new_head"],
            goes_on=facts["goes_on"],
            frozen=frozenset(facts["frozen"]),
            classes=None if facts["classes"] is None else tuple(facts["classes"]),
            located=facts["located"],
        )

    def _head(self, config: TrainingConfig, outputs: int) -> TorchNetwork | None:
        """Return the head before training; None if the body has all."""
        if not self.new_head:
            return self.head
        # What standardises features is fitted to those of frozen layers; here they move.
        plain = config.replace(standardise=False)
        return build_head(plain, int(np.prod(self.body.output_shape)), outputs)

    def _joined(self, head: TorchNetwork | None) -> TorchNetwork:
        """Return body and head as one network, of which `frozen` is frozen."""
        whole = self.body if head is None else self.body.with_head(head)
        return replace(whole, frozen=self.frozen)


_SUBJECT = "subject"
_SHAPING = (nn.Flatten, nn.Identity, nn.Unflatten, nn.Dropout)


def _frozen(network: TorchNetwork, train_from: str | None, *, new_head: bool) -> frozenset[str]:
    """Return the layers that stay as they are.

    Raises:
        InputError: All layers with weights do.
    """
    if train_from is None:
        chosen = network
    elif train_from == "all":
        chosen = network.unfreeze()
    elif train_from == "head" and new_head:
        chosen = network.freeze()
    else:
        chosen = _from_layer(network, train_from, ("all", "head") if new_head else ("all",))
    if not new_head and not any(parameter.requires_grad for parameter in chosen.to_module().parameters()):
        raise InputError(
            f"Nothing of the network `{network.name}` would train: "
            + ("it has no weights" if not network.weights() else "all of its layers with weights are frozen")
            + (f" when it trains from `{train_from}` on" if train_from else "")
            + ". Train from an earlier layer on, or from all."
        )
    return chosen.frozen


def _from_layer(network: TorchNetwork, train_from: str, words: Sequence[str]) -> TorchNetwork:
    """Return the network with all layers before `train_from` frozen.

    Raises:
        NameUnknownError: There is no such layer; one of `words`, which mean layers too, may be meant.
    """
    try:
        return network.freeze().unfreeze(train_from)
    except NameUnknownError as error:
        meant = did_you_mean(train_from, words)
        if not meant:
            raise
        raise NameUnknownError(f"The network `{network.name}` has no layer `{train_from}`.{meant}") from error


def _tasks(config: TrainingConfig) -> tuple[str, ...]:
    """Return the tasks of all outputs."""
    return (config.tasks,) if isinstance(config.tasks, str) else tuple(config.tasks.values())


def _below(names: frozenset[str], child: str) -> frozenset[str]:
    """Return the names under `child`, without it."""
    return frozenset(name.removeprefix(f"{child}.") for name in names if name.startswith(f"{child}."))


def load_subject(name: str | None) -> Subject:
    """Return the subject that `Subject.ship` sent. Runs on executors."""
    if name is None:
        return Head()
    with safe_open(shipped_path(name), "numpy") as file:
        metadata = file.metadata()
        if _SUBJECT not in metadata:
            return Head(Initial.shipped(name))
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
    return WholeNetwork.from_parts(json.loads(metadata[_SUBJECT]), tensors)


def allowed_classes(classes: Sequence[Any] | Mapping[str, Sequence[Any]] | None, subject: Subject) -> AllowedClasses:
    """Return the classes that labels may name: those given, else those of the subject; None for any.

    Raises:
        InputError: Others are given than the subject has outputs for.
    """
    if isinstance(classes, Mapping):
        return {name: tuple(map(label_text, own)) for name, own in classes.items()}
    given = None if classes is None else tuple(map(label_text, classes))
    if not subject.classes:
        return given
    if given not in (None, subject.classes):
        raise InputError(
            f"`classes` must be those of the model to go on from, in its order: {', '.join(subject.classes)}."
        )
    return subject.classes


def build_head(config: TrainingConfig, width: int, outputs: int) -> TorchNetwork:
    """Return the head before training: standardisation (mean 0, factor 1, if asked), hidden layers, output."""
    neutral = {"mean": np.zeros(width), "scale": np.ones(width)} if config.standardise else {}
    return mlp(width, outputs, config.hidden, config.activation, config.dropped, config.seed, **neutral)
