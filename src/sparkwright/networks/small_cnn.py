"""A small convolutional network for small images, such as digits: trained from scratch in seconds."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from sparkwright.errors import InputError
from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["build"]


def build(
    input_shape: Sequence[int] = (1, 28, 28),
    outputs: int = 10,
    channels: Sequence[int] = (16, 32),
    features: int = 64,
) -> Architecture:
    """Build blocks of 3 x 3 convolution, BatchNorm, ReLU and pooling, then two linear layers.

    Args:
        input_shape: Channels, height and width of the images.
        outputs: Number of classes.
        channels: Of each block; each block halves height and width.
        features: Width of the layer under the output, ``fc1``.

    Raises:
        InputError: The images are too small for so many blocks.
    """
    depth, height, width = input_shape
    if min(height, width) < 2 ** len(channels):
        raise InputError(
            f"Images of {height} x {width} pixels are too small for {len(channels)} blocks, which halve them each: "
            "give `channels` fewer values."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, count in enumerate(channels, 1):
        layers[f"block{number}"] = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(depth, count, 3, padding=1, bias=False),
                bn=nn.BatchNorm2d(count),
                act=nn.ReLU(),
                pool=nn.MaxPool2d(2),
            )
        )
        depth, height, width = count, height // 2, width // 2
    layers["flatten"] = nn.Flatten(1)
    layers["fc1"] = nn.Sequential(OrderedDict(linear=nn.Linear(depth * height * width, features), act=nn.ReLU()))
    layers["output"] = nn.Linear(features, outputs)
    return Architecture(Layers(layers), tuple(input_shape), {}, feature_layer="fc1")
