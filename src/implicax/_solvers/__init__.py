"""How a solution is found: one algorithm a file."""
