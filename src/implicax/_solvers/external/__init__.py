"""Solvers of other libraries, and on the host: with our conditions and our verdict."""
