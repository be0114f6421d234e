"""Photos and tables as rows, and their division into train, validation and test."""
