"""Where the trials of a search run: in this process, or each as a small job of Spark."""
