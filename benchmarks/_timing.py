"""Compile times, and run times that are measured in turns."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def compile_seconds(make: Callable[[], Callable], args: tuple, repeats: int) -> float:
    """The median time to trace, lower and compile a fresh copy of a program."""
    times = []
    for _ in range(repeats):
        jax.clear_caches()
        fn = jax.jit(make())
        start = time.perf_counter()
        fn.lower(*args).compile()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def in_turns(
    programs: dict[str, Callable], args: tuple, budget: float
) -> dict[str, list[float]]:
    """Run times of each program, one call each per round, for `budget` seconds.

    In turns, so that what else the machine does falls on all alike. Short programs are
    repeated within their turn until it lasts about a millisecond.
    """
    repeats: dict[str, int] = {}
    for name, program in programs.items():
        jax.block_until_ready(program(*args))
        start = time.perf_counter()
        jax.block_until_ready(program(*args))
        repeats[name] = max(1, int(1e-3 / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in programs}
    deadline = time.perf_counter() + budget
    while time.perf_counter() < deadline or len(next(iter(times.values()))) < 5:
        for name, program in programs.items():
            count = repeats[name]
            start = time.perf_counter()
            for _ in range(count):
                result: Any = program(*args)
                jax.block_until_ready(result)
            times[name].append((time.perf_counter() - start) / count)
    return times


def median_ratio(times: list[float], reference: list[float]) -> tuple[float, float]:
    """The median over rounds of `times / reference`, half the interquartile range."""
    ratios = sorted(a / b for a, b in zip(times, reference, strict=True))
    quarter = len(ratios) // 4
    spread = (ratios[-1 - quarter] - ratios[quarter]) / 2
    return statistics.median(ratios), spread
