"""BatchNorm in a training of several replicas: each moves running statistics by its own batches.

They are learnt as weights are, but by no gradient: they lie behind the weights in `Flat`, so that syncs combine them,
checkpoints hold them, and the best epoch keeps them.
"""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from sparkwright.errors import InputError

__all__ = ["COUNTER", "hold", "statistics"]

COUNTER = "num_batches_tracked"
"""A layer's count of batches: nothing depends on it, and it starts anew in each process."""


def statistics(module: nn.Module) -> Iterator[tuple[_NormBase, str]]:
    """Yield what moves while `module` trains: layers, and the names of their running statistics.

    Those of frozen layers do not move. Call it in training mode.

    Raises:
        InputError: A layer's momentum is None: its mean over all batches would depend on restarts.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _NormBase) and layer.track_running_stats and layer.training:
            if layer.momentum is None:
                raise InputError(
                    f"The layer `{name}` averages its statistics over all batches (momentum None); give it a momentum, "
                    "such as 0.1."
                )
            yield layer, "running_mean"
            yield layer, "running_var"


def hold(module: nn.Module) -> None:
    """Put all BatchNorm layers into inference mode: they normalise by the statistics that they have."""
    for layer in module.modules():
        if isinstance(layer, _NormBase):
            layer.eval()
