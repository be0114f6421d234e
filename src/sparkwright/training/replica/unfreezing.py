"""Gradual unfreezing: layers that begin to train at an epoch of their own (Howard and Ruder 2018).

Until then they stay bit for bit as they are, with BatchNorm's running statistics, and the optimiser knows nothing of
them.
"""

from collections.abc import Iterable, Mapping

from torch import nn

from sparkwright.errors import InputError, did_you_mean

__all__ = ["ALL", "first_epochs", "hold_until"]

ALL = "all"
"""Instead of a layer: the first one."""


def first_epochs(module: nn.Module, table: Mapping[int, str] | None) -> dict[str, int]:
    """Return from which epoch on each layer trains, by its path; without those that do from the first, and frozen ones.

    Args:
        module: Its layers in the order of the computation.
        table: Epoch → the first layer that trains from it on, or `ALL`; layers that no entry reaches never train. None
            leaves out all.

    Raises:
        InputError: There is no such layer.
    """
    if table is None:
        return {}
    paths = [path for path, _ in module.named_modules() if path]
    begins = dict.fromkeys(paths, _NEVER)
    for epoch, name in sorted(table.items(), reverse=True):
        for path in paths[_place(name, paths) :]:
            begins[path] = epoch
    frozen: frozenset[str] = getattr(module, "frozen", frozenset())
    return {
        path: begins[path]
        for path, layer in module.named_modules()
        if path and begins[path] > 1 and not list(layer.children()) and not _inside(path, frozen)
    }


def hold_until(module: nn.Module, begins: Mapping[str, int], epoch: int) -> None:
    """Let exactly those layers of `begins` train that do in an epoch; call it in training mode."""
    for path, first in begins.items():
        layer = module.get_submodule(path)
        layer.requires_grad_(first <= epoch)
        if first > epoch:
            layer.eval()


_NEVER = 1 << 30  # epochs


def _inside(path: str, layers: Iterable[str]) -> bool:
    return any(path == layer or path.startswith(f"{layer}.") for layer in layers)


def _place(name: str, paths: list[str]) -> int:
    if name == ALL:
        return 0
    if name not in paths:
        shown = did_you_mean(name, paths) or f" It has: {', '.join(paths[:20])}{' …' * (len(paths) > 20)}."
        raise InputError(f"`unfreeze` names `{name}`, which is no layer of the network.{shown}")
    return paths.index(name)
