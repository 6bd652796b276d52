"""How a solution is differentiated."""
