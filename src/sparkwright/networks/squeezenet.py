"""SqueezeNet (Iandola et al. 2016, https://arxiv.org/abs/1602.07360): version 1.0, and the lighter 1.1 of its authors.

Its classifier is a convolution, averaged over the image afterwards; under it are 512 maps of 13 x 13: 86,528 values.
The layer for features is therefore the output itself, 1,000 values.
"""

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["Fire", "build"]

_SQUEEZE = (16, 16, 32, 32, 48, 48, 64, 64)  # fire2 … fire9; each expands to 4 + 4 times as many channels


class Fire(nn.Module):
    """A 1 x 1 convolution to few channels, then 1 x 1 and 3 x 3 side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], 1)


def build(version: Literal["1.0", "1.1"] = "1.0", outputs: int = 1000) -> Architecture:
    """Build the network for 224 x 224 RGB images.

    Args:
        version: 1.1 pools earlier and costs 2.4 times less.
        outputs: Number of classes.
    """
    first = nn.Conv2d(3, 96, 7, stride=2) if version == "1.0" else nn.Conv2d(3, 64, 3, stride=2)
    pools_behind = (4, 8) if version == "1.0" else (3, 5)  # these fires
    features: list[nn.Module] = [first, nn.ReLU(), nn.MaxPool2d(3, stride=2, ceil_mode=True)]
    aliases = {}
    previous = first.out_channels
    for number, squeeze in enumerate(_SQUEEZE, 2):
        features.append(Fire(previous, squeeze, 4 * squeeze))
        aliases[f"fire{number}"] = f"features.{len(features) - 1}"
        previous = 8 * squeeze
        if number in pools_behind:
            features.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
    final = nn.Conv2d(previous, outputs, 1)
    classifier = nn.Sequential(nn.Dropout(), final, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    for module in (*features, *classifier):
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    nn.init.normal_(final.weight, std=0.01)
    layers = OrderedDict(features=nn.Sequential(*features), classifier=classifier, flatten=nn.Flatten(1))
    return Architecture(Layers(layers), (3, 224, 224), aliases, feature_layer="flatten")
