"""Listeners to a run's events."""
