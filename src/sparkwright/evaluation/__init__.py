"""How good a model is: metrics as mergeable states, their one distributed pass, and the report."""
