"""Running networks over rows: the engine, its Spark stages, the features' cache, and prediction without Spark."""
