"""ResNet (He et al. 2015, https://arxiv.org/abs/1512.03385): for ImageNet (table 1) and for small images (section 4.2).

In the bottleneck the 3 x 3 convolution has the stride, not the first one: "version 1.5", as in torchvision.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from sparkwright.errors import InputError
from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["BasicBlock", "Bottleneck", "build", "build_small"]

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}  # in each of the four stages


class _Residual(nn.Module):
    """``relu(branch(x) + x)``; where the shapes differ, a 1 x 1 convolution brings x to the branch's."""

    expansion: int
    downsample: nn.Module | None

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


class BasicBlock(_Residual):
    """Two 3 x 3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width, stride)
        self.conv1, self.bn1 = _conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


class Bottleneck(_Residual):
    """1 x 1, 3 x 3, 1 x 1 convolutions; the last has four times the channels."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__(inputs, width * self.expansion, stride)
        self.conv1, self.bn1 = _conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, width * self.expansion, 1), nn.BatchNorm2d(width * self.expansion)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


def build(depth: Literal[18, 34, 50] = 50, outputs: int = 1000) -> Architecture:
    """Build the network for 224 x 224 RGB images.

    Args:
        depth: Number of layers with weights.
        outputs: Number of classes.
    """
    block = Bottleneck if depth == 50 else BasicBlock
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_conv(3, 64, 7, stride=2),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    previous = 64
    for stage, count in enumerate(_BLOCKS[depth], 1):
        width = 32 * 2**stage
        blocks = []
        for number in range(count):
            blocks.append(block(previous, width, stride=2 if number == 0 and stage > 1 else 1))
            previous = width * block.expansion
        layers[f"layer{stage}"] = nn.Sequential(*blocks)
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["fc"] = nn.Linear(previous, outputs)
    aliases = {f"block{stage}": f"layer{stage}" for stage in range(1, 5)} | {"pool": "flatten"}
    return Architecture(Layers(layers), (3, 224, 224), aliases, feature_layer="flatten")


def build_small(
    depth: int = 20, outputs: int = 10, input_shape: Sequence[int] = (3, 32, 32), width: int = 16
) -> Architecture:
    """Build the network for small images: three stages of basic blocks, 16, 32 and 64 channels wide.

    Where a stage begins the shortcut is a 1 x 1 convolution (option B of the paper).

    Args:
        depth: Number of layers with weights: 6 n + 2, such as 20, 32, 44, 56.
        outputs: Number of classes.
        input_shape: Channels, height and width of the images.
        width: Channels of the first stage.

    Raises:
        InputError: No such depth.
    """
    count, rest = divmod(depth - 2, 6)
    if rest or count < 1:
        raise InputError(f"`depth` must be 6 n + 2, such as 20, 32, 44 or 56; got {depth}.")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=_conv(input_shape[0], width, 3), bn1=nn.BatchNorm2d(width), relu=nn.ReLU()
    )
    previous = width
    for stage in range(1, 4):
        wide = width * 2 ** (stage - 1)
        blocks = [BasicBlock(previous, wide, stride=2 if stage > 1 else 1)]
        blocks += [BasicBlock(wide, wide, stride=1) for _ in range(count - 1)]
        layers[f"layer{stage}"] = nn.Sequential(*blocks)
        previous = wide
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten(1)
    layers["fc"] = nn.Linear(previous, outputs)
    aliases = {f"block{stage}": f"layer{stage}" for stage in range(1, 4)} | {"pool": "flatten"}
    return Architecture(Layers(layers), tuple(input_shape), aliases, feature_layer="flatten")


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
