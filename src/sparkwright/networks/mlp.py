"""Multi-layer perceptron: the head that is trained on features, and a network of its own for tables.

Layers: ``standardise`` (if asked), then ``hidden1``, ``act1``, ``dropout1``, ``hidden2`` … ``output``.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from sparkwright.errors import InputError, did_you_mean
from sparkwright.networks.dropout import Dropout
from sparkwright.networks.torch_network import Architecture, Layers, TorchNetwork

__all__ = ["ACTIVATIONS", "Standardise", "build", "mlp"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class Standardise(nn.Module):
    """``(x - mean) * scale``, a mean and a factor a feature; fitted on training rows, never trained."""

    mean: Tensor
    scale: Tensor

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))

    def forward(self, x_BF: Tensor) -> Tensor:
        return (x_BF - self.mean) * self.scale


def build(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (),
    activation: str = "relu",
    dropout: float = 0.0,
    standardise: bool = False,
) -> Architecture:
    """Build the layers; see `mlp`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if standardise:
        layers["standardise"] = Standardise(inputs)
    width = inputs
    if dropout and not hidden:
        layers["dropout"] = Dropout(dropout)
    for number, size in enumerate(hidden, 1):
        layers[f"hidden{number}"] = nn.Linear(width, size)
        layers[f"act{number}"] = ACTIVATIONS[activation]()
        if dropout:
            layers[f"dropout{number}"] = Dropout(dropout)
        width = size
    feature_layer = f"act{len(hidden)}" if hidden else None
    layers["output"] = nn.Linear(width, outputs)
    return Architecture(Layers(layers), (inputs,), {}, feature_layer)


def mlp(
    inputs: int,
    outputs: int,
    hidden: Sequence[int] = (),
    activation: str = "relu",
    dropout: float = 0.0,
    seed: int = 0,
    mean: ArrayLike | None = None,
    scale: ArrayLike | None = None,
) -> TorchNetwork:
    """Return a multi-layer perceptron with random weights; without hidden layers it is a linear model.

    Args:
        inputs: Width of the input vector.
        outputs: Width of the output: the number of classes (logits), or of targets.
        hidden: Widths of the hidden layers.
        activation: Of the hidden layers: one of `ACTIVATIONS`.
        dropout: Share of each hidden layer's outputs (without hidden layers: of the inputs) dropped in training.
        seed: Of the initial weights (torch's defaults for `nn.Linear`: uniform within 1/√inputs).
        mean: Subtracted from the inputs, one a feature.
        scale: Multiplied with the inputs after `mean`, one a feature.

    Raises:
        InputError: A width below 1, an unknown activation, a dropout outside 0 … 1, or `mean`, `scale` of other width.
    """
    hidden = [int(size) for size in hidden]
    if inputs < 1 or outputs < 1 or any(size < 1 for size in hidden):
        raise InputError(f"All widths must be at least 1; got {inputs} inputs, hidden {hidden}, {outputs} outputs.")
    if activation not in ACTIVATIONS:
        raise InputError(
            f"`activation` must be one of {', '.join(ACTIVATIONS)}; got {activation!r}."
            + did_you_mean(str(activation), ACTIVATIONS)
        )
    if not 0 <= dropout < 1:
        raise InputError(f"`dropout` must be at least 0 and below 1; got {dropout}.")
    standardise = mean is not None or scale is not None
    options: dict[str, Any] = {
        "inputs": int(inputs),
        "outputs": int(outputs),
        "hidden": hidden,
        "activation": activation,
        "dropout": float(dropout),
        "standardise": standardise,
    }
    network = TorchNetwork.build("mlp", "mlp", options, seed)
    if not standardise:
        return network
    weights: dict[str, Any] = network.weights()
    for name, value in (("mean", mean), ("scale", scale)):
        if value is not None:
            array = np.asarray(value, np.float32)
            if array.shape != (inputs,):
                raise InputError(f"`{name}` must hold one value for each of {inputs} inputs; got shape {array.shape}.")
            weights[f"standardise.{name}"] = array
    return network.with_weights(weights)
