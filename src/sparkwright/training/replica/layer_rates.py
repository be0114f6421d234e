"""Which rate each layer learns at: less, the further it is from the head, or as given."""

import re
from collections.abc import Iterator, Mapping

from torch import nn

from sparkwright.errors import InputError, did_you_mean
from sparkwright.training.config import TrainingConfig

__all__ = ["blocks", "rate_factors"]

_HEAD = re.compile(r"head\d*")  # as `Network.with_head` calls it: one block, however many layers it has


def rate_factors(module: nn.Module, config: TrainingConfig) -> dict[str, float]:
    """Return what the learning rate is multiplied with, by trainable parameter.

    Raises:
        InputError: `layer_rates` names a layer that is not there, or one that does not train.
    """
    trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    factors = dict.fromkeys(trained, 1.0)
    if config.rate_decay != 1:
        for depth, block in enumerate(reversed(blocks(module))):
            factors |= {name: config.rate_decay**depth for name in trained if _inside(name, block)}
    if config.layer_rates:
        # The longest path is the innermost layer, which has the last word.
        for layer, factor in sorted(config.layer_rates.items(), key=lambda entry: len(entry[0])):
            named = [name for name in trained if _inside(name, (layer,))]
            if not named:
                raise InputError(_unknown(layer, trained, config.layer_rates))
            factors |= dict.fromkeys(named, factor)
    return factors


def blocks(module: nn.Module) -> list[tuple[str, ...]]:
    """Return the blocks of a network in their order, each as the paths of its layers.

    A block begins with a layer that has weights of two dimensions or more (convolution, linear, a residual block …);
    what follows, up to the next such layer, belongs to it. A head that was put on a network is one block.
    """
    found: list[tuple[str, ...]] = []
    for path, layer in _layers(module):
        if not found or any(parameter.dim() > 1 for parameter in layer.parameters()):
            found.append((path,))
        else:
            found[-1] = (*found[-1], path)
    return found


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of nested Sequentials, heads whole."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential) and not (not prefix and _HEAD.fullmatch(name)):
            yield from _layers(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _inside(parameter: str, layers: tuple[str, ...]) -> bool:
    return any(parameter == layer or parameter.startswith(f"{layer}.") for layer in layers)


def _unknown(layer: str, trained: list[str], given: Mapping[str, float]) -> str:
    known = sorted({name.rpartition(".")[0] or name for name in trained})
    around = {path[: dot.start()] for path in known for dot in re.finditer(r"\.", path)}  # what layers are inside of
    shown = did_you_mean(layer, [*known, *sorted(around)])
    shown = shown or f" Layers that train: {', '.join(known[:20])}{' …' * (len(known) > 20)}."
    return f"`layer_rates` names `{layer}`, which has no weights that train. It is {dict(given)}.{shown}"
