"""Sections on a search for hyperparameters."""
