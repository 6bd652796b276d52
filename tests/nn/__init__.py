"""Equilibrium layers."""
