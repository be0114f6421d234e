"""AlexNet in the shape of "One weird trick" (Krizhevsky 2014, https://arxiv.org/abs/1404.5997), as in torchvision."""

from collections import OrderedDict

from torch import nn

from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["build"]


def build(outputs: int = 1000) -> Architecture:
    """Build the network for 224 x 224 RGB images with `outputs` classes."""
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(),
        nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
        nn.Linear(4096, outputs),
    )  # fmt: skip
    layers = OrderedDict(
        features=features,  # 256 x 6 x 6
        avgpool=nn.AdaptiveAvgPool2d(6),
        flatten=nn.Flatten(1),
        classifier=classifier,
    )
    aliases = {f"block{block}": f"features.{index}" for block, index in enumerate((2, 5, 7, 9, 12), 1)}
    aliases |= {"pool": "avgpool", "fc1": "classifier.2", "fc2": "classifier.5", "fc3": "classifier.6"}
    return Architecture(Layers(layers), (3, 224, 224), aliases, feature_layer="classifier.5")
