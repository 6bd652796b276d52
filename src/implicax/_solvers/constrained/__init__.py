"""Solvers of nonlinear programs: objectives within bounds and constraints."""
