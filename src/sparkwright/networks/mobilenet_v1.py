"""MobileNet v1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861, table 1), as Keras's applications build it.

Thirteen depthwise separable blocks; the layers' names are Keras's. Keras pads "same": with stride 2 only at the right
and at the bottom.
"""

from collections import OrderedDict

from torch import nn

from sparkwright.errors import InputError
from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["build"]

_CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)


def build(width: float = 1.0, outputs: int = 1000) -> Architecture:
    """Build the network for 224 x 224 RGB images.

    Args:
        width: Multiplies the channels of all layers; published: 0.25, 0.5, 0.75, 1.
        outputs: Number of classes.

    Raises:
        InputError: A width that is not above 0.
    """
    if width <= 0:
        raise InputError(f"`width` must be above 0 (published: 0.25, 0.5, 0.75, 1); got {width}.")
    previous = int(32 * width)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=_block(3, previous, kernel=3, stride=2))
    for number, (channels, stride) in enumerate(zip(_CHANNELS, _STRIDES, strict=True), 1):
        channels = int(channels * width)
        layers[f"conv_dw_{number}"] = _block(previous, previous, kernel=3, stride=stride, groups=previous)
        layers[f"conv_pw_{number}"] = _block(previous, channels, kernel=1)
        previous = channels
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["conv_preds"] = nn.Linear(previous, outputs)
    aliases = {f"block{number}": f"conv_pw_{number}" for number in range(1, 14)} | {"fc": "conv_preds"}
    return Architecture(Layers(layers), (3, 224, 224), aliases, feature_layer="flatten")


def _block(inputs: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stride == 2:
        layers["pad"] = nn.ZeroPad2d((0, 1, 0, 1))
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(inputs, channels, kernel, stride, padding, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    layers["conv"] = conv
    layers["bn"] = nn.BatchNorm2d(channels, eps=1e-3)
    layers["act"] = nn.ReLU6()
    return nn.Sequential(layers)
