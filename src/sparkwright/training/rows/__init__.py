"""Rows of a training: from a table to the replicas that they belong to."""
