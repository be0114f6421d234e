"""Spark ML estimators that train, and the models that they give."""
