"""Training on features: one loop, strategies that combine replicas, transports that carry their bytes."""
