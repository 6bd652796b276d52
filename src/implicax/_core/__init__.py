"""Arrays, pytrees, traces and results: knows of no problem."""
