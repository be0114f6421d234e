"""The scoring process and its supervisor: the engine, what it says of its rows, and how it is watched."""
