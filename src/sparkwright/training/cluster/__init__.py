"""Training on a cluster: the driver's part, and the tasks that it submits."""
