"""Branches of solutions, and their folds."""
