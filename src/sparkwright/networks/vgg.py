"""VGG (Simonyan & Zisserman 2014, https://arxiv.org/abs/1409.1556, table 1: configurations D and E)."""

from collections import OrderedDict
from typing import Literal

from torch import nn

from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["build"]

_CHANNELS = (64, 128, 256, 512, 512)
_CONVOLUTIONS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # in each block


def build(depth: Literal[16, 19] = 16, outputs: int = 1000) -> Architecture:
    """Build VGG16 or VGG19 for 224 x 224 RGB images.

    Args:
        depth: Number of layers with weights.
        outputs: Number of classes.
    """
    features: list[nn.Module] = []
    aliases: dict[str, str] = {}
    previous = 3
    for block, (channels, count) in enumerate(zip(_CHANNELS, _CONVOLUTIONS[depth], strict=True), 1):
        for number in range(1, count + 1):
            conv = nn.Conv2d(previous, channels, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
            features += [conv, nn.ReLU()]
            aliases[f"block{block}_conv{number}"] = f"features.{len(features) - 1}"
            previous = channels
        features.append(nn.MaxPool2d(2))
        aliases[f"block{block}"] = f"features.{len(features) - 1}"
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
        nn.Linear(4096, outputs),
    )  # fmt: skip
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    layers = OrderedDict(
        features=nn.Sequential(*features),  # 512 x 7 x 7
        avgpool=nn.AdaptiveAvgPool2d(7),
        flatten=nn.Flatten(1),
        classifier=classifier,
    )
    aliases |= {"pool": "avgpool", "fc1": "classifier.1", "fc2": "classifier.4", "fc3": "classifier.6"}
    return Architecture(Layers(layers), (3, 224, 224), aliases, feature_layer="classifier.4")
