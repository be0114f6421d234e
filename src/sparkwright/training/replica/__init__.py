"""A replica: one copy of the weights, and all that a step of it does."""
