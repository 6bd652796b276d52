"""Solvers of composite problems, one algorithm a file."""
