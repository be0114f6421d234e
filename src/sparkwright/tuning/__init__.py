"""Search for hyperparameters: which configurations to try, where they train, and which one is chosen."""
