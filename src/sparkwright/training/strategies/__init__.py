"""How replicas combine: a file a strategy, `_base` is the contract."""

from sparkwright.training.compression import make_codec
from sparkwright.training.config import TrainingConfig
from sparkwright.training.strategies._base import Strategy
from sparkwright.training.strategies.all_reduce import AllReduce
from sparkwright.training.strategies.averaging import Averaging
from sparkwright.training.strategies.outer import Outer

__all__ = ["make_strategy"]


def make_strategy(config: TrainingConfig) -> Strategy:
    """Return the strategy that `config` names, before its first step."""
    codec = make_codec(config.compression, config.compression_share)
    match config.strategy:
        case "all_reduce":
            return AllReduce(codec=codec)
        case "outer":
            return Outer(config.sync_every, config.outer_rate, config.outer_momentum, config.pull, codec)
        case _:
            return Averaging(config.sync_every, codec)
