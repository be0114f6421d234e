"""Forward and backward pass of a head, written out: of many small heads, it is the bookkeeping that takes time."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its usual name

from sparkwright.networks.mlp import ACTIVATIONS, Standardise
from sparkwright.tuning.batch_stream import Draws

__all__ = ["HeadPasses"]

_ACTIVATIONS = tuple(ACTIVATIONS.values())


class HeadPasses:
    """The passes of one head, on features that are standardised already.

    Gradients go straight to where the parameters' are, which are views of the replica's one gradient.

    Args:
        module: The head's layers, as `sparkwright.networks.mlp` builds them.

    Attributes:
        standardise: What its features go through first, if anything.
    """

    def __init__(self, module: nn.Module) -> None:
        layers = list(module.children())
        self.standardise = layers.pop(0) if isinstance(layers[0], Standardise) else None
        self._layers: Sequence[nn.Module] = layers
        self._tape: list[tuple[Tensor, ...]] = []
        self._dropout, widths, width = 0.0, list[int](), 0
        for layer in reversed(layers):  # what is dropped is as wide as the next linear layer's input
            if isinstance(layer, nn.Linear):
                width = layer.in_features
            elif isinstance(layer, nn.Dropout):
                self._dropout = layer.p
                widths.append(width)
            elif not isinstance(layer, _ACTIVATIONS):
                raise TypeError(f"A head has no layers of type {type(layer).__name__}")
        self._widths = tuple(reversed(widths))

    @torch.no_grad()
    def outputs(self, x_BF: Tensor) -> Tensor:
        """Return the outputs as in scoring."""
        for layer in self._layers:
            if isinstance(layer, nn.Linear):
                x_BF = _product(x_BF, layer.weight, layer.bias)
            elif not isinstance(layer, nn.Dropout):
                x_BF = layer(x_BF)
        return x_BF

    def forward(self, x_BF: Tensor, draws: Draws) -> Tensor:
        """Return the outputs in training, which `backward` wants the gradient of."""
        self._tape = []
        noise = iter(draws.noise(len(x_BF), self._widths, self._dropout) if self._dropout else ())
        with torch.no_grad():
            for layer in self._layers:
                if isinstance(layer, nn.Linear):
                    self._tape.append((x_BF,))
                    x_BF = _product(x_BF, layer.weight, layer.bias)
                elif isinstance(layer, nn.Dropout):
                    self._tape.append((next(noise),))
                    x_BF = x_BF * self._tape[-1][0]
                else:
                    with torch.enable_grad():
                        before = x_BF.requires_grad_()
                        after = layer(before)
                    self._tape.append((before, after))
                    x_BF = after.detach()
        return x_BF

    def backward(self, gradient_BO: Tensor) -> None:
        """Set the parameters' gradients, given that of the last `forward`'s outputs."""
        last = next(number for number, layer in enumerate(self._layers) if isinstance(layer, nn.Linear))
        gradient = gradient_BO
        with torch.no_grad():
            for number in range(len(self._layers) - 1, last - 1, -1):
                layer, kept = self._layers[number], self._tape[number]
                if isinstance(layer, nn.Linear):
                    weight, bias = layer.weight.grad, layer.bias.grad
                    torch.sum(gradient, 0, out=bias)
                    if weight is not None:
                        weight.copy_(_product(gradient.t().contiguous(), kept[0].t()))
                    if number > last:
                        gradient = _product(gradient, layer.weight.t())
                elif isinstance(layer, nn.Dropout):
                    gradient = gradient * kept[0]
                else:
                    (gradient,) = torch.autograd.grad(kept[1], kept[0], gradient)
        self._tape = []


def _product(a_BF: Tensor, b_OF: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Return ``a @ b.T + bias``."""
    return _of_onednn(a_BF, b_OF, bias_O) if _has_onednn() else F.linear(a_BF, b_OF, bias_O)


def _of_onednn(a_BF: Tensor, b_OF: Tensor, bias_O: Tensor | None) -> Tensor:
    """Return the product as oneDNN makes it, by what torch gives to what it compiles and to nobody else.

    With AVX-512 on AMD's processors it takes half of the time of MKL's, which `linear` takes.
    """
    made: Tensor = torch.ops.mkldnn._linear_pointwise(a_BF, b_OF, bias_O, "none", [], "")
    return made


@cache
def _has_onednn() -> bool:
    """Whether this torch has oneDNN's product, and takes it as it is called here."""
    two = torch.full((1, 1), 2.0)
    try:
        return bool(_of_onednn(two, two, two[0]) == 6)
    except (AttributeError, RuntimeError, TypeError):
        return False
