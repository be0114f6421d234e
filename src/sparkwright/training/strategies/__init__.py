"""How replicas combine: a file a strategy, `_base` is the contract."""

from sparkwright.errors import InputError
from sparkwright.training.compression import make_codec
from sparkwright.training.config import TrainingConfig
from sparkwright.training.strategies._base import Strategy
from sparkwright.training.strategies.all_reduce import AllReduce
from sparkwright.training.strategies.averaging import Averaging
from sparkwright.training.strategies.outer import Outer

__all__ = ["make_strategy"]


def make_strategy(config: TrainingConfig) -> Strategy:
    """Return the strategy that `config` names, before its first step.

    Raises:
        InputError: `sync_every` is still to be chosen.
    """
    every = config.sync_every
    if isinstance(every, str):
        if config.strategy != "all_reduce":
            raise InputError("`sync_every` 'auto' must be measured first: see `choose_sync_interval`.")
        every = 1
    # One replica alone sends nothing, so nothing is lost on the way.
    codec = make_codec(config.compression if config.replicas > 1 else None, config.compression_share)
    match config.strategy:
        case "all_reduce":
            return AllReduce(codec=codec)
        case "outer":
            return Outer(every, config.outer_rate, config.outer_momentum, config.pull, codec)
        case _:
            return Averaging(every, codec)
