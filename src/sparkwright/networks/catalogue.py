"""The networks known by name, and how a name or a file becomes a network."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from sparkwright.errors import ModelError

if TYPE_CHECKING:
    from sparkwright.networks.torch_network import Architecture

__all__ = ["builder"]

_BUILDERS = {"flatten": "torch_network:build_flatten", "mlp": "mlp:build"}


def builder(name: str) -> "Callable[..., Architecture]":
    """Return the function that builds an architecture.

    Raises:
        ModelError: No such architecture: a newer version may have written the model.
    """
    if name not in _BUILDERS:
        raise ModelError(f"There is no architecture `{name}`; a newer version may have written the model.")
    module, function = _BUILDERS[name].split(":")
    build: Callable[..., Architecture] = getattr(import_module(f"sparkwright.networks.{module}"), function)
    return build
