"""How replicas combine: a file a strategy, `_base` is the contract."""
