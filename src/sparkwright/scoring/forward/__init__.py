"""The forward pass: the graph that runs, what runs it, on which device, and in how much memory."""
