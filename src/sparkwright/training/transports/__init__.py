"""How bytes move between replicas: a file a transport, `_base` is the contract."""
