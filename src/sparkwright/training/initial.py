"""Go on from a model: its head's weights are where a training begins."""

import json
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from sparkwright.errors import InputError
from sparkwright.models import Model
from sparkwright.networks.torch_network import TorchNetwork
from sparkwright.session import shipped_path
from sparkwright.training.config import TrainingConfig, label_text

__all__ = ["Initial"]


@dataclass(frozen=True)
class Initial:
    """Weights to begin with, which a training of the same layers and classes takes as they are.

    Standardisation is part of them: it stays that of the rows which the model was first trained on.

    Attributes:
        weights: The head's, by name.
        classes: In the order of the scores, as text; empty in a regression.
    """

    weights: dict[str, NDArray[np.float32]] = field(repr=False)
    classes: tuple[str, ...]

    @property
    def width(self) -> int:
        """Number of features."""
        first = "hidden1.weight" if "hidden1.weight" in self.weights else "output.weight"
        return int(self.weights[first].shape[1])

    @staticmethod
    def shipped(name: str) -> "Initial":
        """Return the weights that `Subject.ship` sent. Runs on executors."""
        with safe_open(shipped_path(name), "numpy") as file:
            classes = json.loads(file.metadata()["classes"])
            return Initial({key: file.get_tensor(key) for key in file.keys()}, tuple(classes))  # noqa: SIM118  no mapping

    def to_bytes(self) -> bytes:
        """Return the weights as `shipped` reads them."""
        content: bytes = save(self.weights, {"classes": json.dumps(self.classes)})
        return content

    @staticmethod
    def of(model: Model, config: TrainingConfig) -> "Initial":
        """Return a model's weights, if a training with this configuration can go on from them.

        Raises:
            InputError: The model has another task or other layers; all differences in one message.
        """
        head = model.head
        if model.outputs or config.outputs is not None:
            raise InputError("A training of several outputs does not go on from a model yet: leave out `initial`.")
        if not isinstance(head, TorchNetwork) or [part.build for part in head.parts] != ["mlp"]:
            raise InputError("A training goes on from a model whose head it could have made: an MLP. This has another.")
        options = head.parts[0].options
        wanted = {
            "task": (model.task, config.task),
            "link": (model.link, config.link),
            "hidden": (list(options.get("hidden", ())), list(config.hidden)),
            "activation": (options.get("activation", "relu"), config.activation),
            "standardise": (options.get("standardise", False), config.standardise),
        }
        if not config.hidden:
            del wanted["activation"]
        problems = [
            f"its `{name}` is {there!r}, the training's {asked!r}."
            for name, (there, asked) in wanted.items()
            if there != asked
        ]
        if problems:
            raise InputError.listing("The training cannot go on from this model", problems)
        return Initial(head.weights(), tuple(map(label_text, model.classes)))
