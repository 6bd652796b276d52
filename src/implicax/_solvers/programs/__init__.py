"""Solvers of programs: objectives and linear constraints that come as data."""
