"""LeNet: two convolutions with pooling, then linear layers; for small grey images such as handwritten digits.

LeCun et al. 1998, "Gradient-based learning applied to document recognition"; with ReLU and maxima where the paper has
tanh and averages, as it is built since.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from sparkwright.errors import InputError
from sparkwright.networks.dropout import Dropout
from sparkwright.networks.torch_network import Architecture, Layers

__all__ = ["build"]


def build(
    input_shape: Sequence[int] = (1, 28, 28),
    outputs: int = 10,
    channels: Sequence[int] = (6, 16),
    hidden: Sequence[int] = (120, 84),
    padding: int = 2,
    dropout: float = 0.0,
) -> Architecture:
    """Build the network; the defaults are LeNet-5's.

    Args:
        input_shape: Channels, height and width of the images.
        outputs: Number of classes.
        channels: Of each convolution of 5 x 5, whose maps are halved afterwards.
        hidden: Widths of the linear layers under the output.
        padding: Of the first convolution: 2 makes 32 x 32 of images of 28 x 28.
        dropout: Share of each hidden layer's outputs that is dropped in training.

    Raises:
        InputError: The images are too small.
    """
    depth, height, width = input_shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, count in enumerate(channels, 1):
        around = padding if number == 1 else 0
        layers[f"conv{number}"] = nn.Conv2d(depth, count, 5, padding=around)
        layers[f"act{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        depth, height, width = count, (height + 2 * around - 4) // 2, (width + 2 * around - 4) // 2
    if min(height, width) < 1:
        raise InputError(f"Images of {tuple(input_shape)} are too small for {len(channels)} convolutions of 5 x 5.")
    layers["flatten"] = nn.Flatten(1)
    size = depth * height * width
    for number, count in enumerate(hidden, 1):
        layers[f"fc{number}"] = nn.Sequential(OrderedDict(linear=nn.Linear(size, count), act=nn.ReLU()))
        if dropout:
            layers[f"dropout{number}"] = Dropout(dropout)
        size = count
    layers["output"] = nn.Linear(size, outputs)
    return Architecture(Layers(layers), tuple(input_shape), {}, f"fc{len(hidden)}" if hidden else "flatten")
