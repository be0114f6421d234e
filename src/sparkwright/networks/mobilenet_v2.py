"""MobileNet v2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 2)."""

from collections import OrderedDict

from torch import Tensor, nn

from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["InvertedResidual", "build"]

_STAGES = (  # expansion, channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1 x 1 convolution to many channels, 3 x 3 depthwise, 1 x 1 to few; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [_block(inputs, hidden, kernel=1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            _block(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            _conv(hidden, outputs, kernel=1),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


def build(width: float = 1.0, outputs: int = 1000) -> Architecture:
    """Build the network for 224 x 224 RGB images.

    Args:
        width: Multiplies the channels, rounded to multiples of 8.
        outputs: Number of classes.
    """
    previous = _rounded(32 * width)
    features: list[nn.Module] = [_block(3, previous, kernel=3, stride=2)]
    aliases = {}
    for stage, (expansion, channels, count, stride) in enumerate(_STAGES, 1):
        channels = _rounded(channels * width)
        for number in range(count):
            features.append(InvertedResidual(previous, channels, stride if number == 0 else 1, expansion))
            previous = channels
        aliases[f"block{stage}"] = f"features.{len(features) - 1}"
    last = _rounded(1280 * max(1.0, width))
    features.append(_block(previous, last, kernel=1))
    linear = nn.Linear(last, outputs)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    layers = OrderedDict(
        features=nn.Sequential(*features),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),
        classifier=nn.Sequential(nn.Dropout(0.2), linear),
    )
    aliases["fc"] = "classifier.1"
    return Architecture(Layers(layers), (3, 224, 224), aliases, feature_layer="flatten")


def _rounded(channels: float, step: int = 8) -> int:
    """Round to a multiple of `step`, but not down by more than a tenth."""
    rounded = max(step, int(channels + step / 2) // step * step)
    return rounded if rounded >= 0.9 * channels else rounded + step


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return conv


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(_conv(inputs, outputs, kernel, stride, groups), nn.BatchNorm2d(outputs), nn.ReLU6())
