"""How much a compiler has to make of a program: its kernels, counted.

On CPU, XLA's time to compile is very nearly proportional to the number of *distinct*
kernels: fused loops, reductions and products that differ in more than their names.
What is equal is compiled once; calls of LAPACK are nearly free.
"""

import collections
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax

#: What is no kernel of its own: names, calls of libraries, and control flow.
FREE = frozenset(
    (
        "after-all",
        "bitcast",
        "call",
        "conditional",
        "constant",
        "copy",
        "custom-call",
        "get-tuple-element",
        "parameter",
        "tuple",
        "while",
    )
)
#: Fusions that a library computes.
LIBRARY = re.compile(r"_?(?:ynn|xnn)_fusion")
#: What calls another computation as a part of itself.
CALLERS = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r" = (?:\([^=]*?\)|\S+) ([a-z][\w\-]*)\(")
NAME = re.compile(r"%[\w.\-]+")
METADATA = re.compile(r", metadata=\{[^}]*\}|, backend_config=\{.*\}$")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What compiling a program took."""

    kernels: int
    """Distinct ones."""
    all_kernels: int
    copies: int
    """How often the operation that stands for the user's function is in the program."""


def computations(program: str) -> dict[str, list[str]]:
    """The instructions of each computation of an optimised program."""
    found, now = {}, None
    for line in program.splitlines():
        begins = COMPUTATION.match(line)
        if begins:
            now = found.setdefault(begins.group(1), [])
        elif line.startswith("}"):
            now = None
        elif now is not None and " = " in line:
            now.append(line.strip().removeprefix("ROOT "))
    return found


def canonical(lines: list[str]) -> str:
    """The same text for what differs in names alone."""
    names: dict[str, str] = {}
    text = "\n".join(METADATA.sub("", line) for line in lines)
    return NAME.sub(lambda m: names.setdefault(m.group(), f"%{len(names)}"), text)


def count(program: str, operation: str) -> Cost:
    """The kernels of `compiled.as_text()`, and the copies of an operation in it."""
    parts = computations(program)
    inner = set()
    for lines in parts.values():
        for line in lines:
            kind = INSTRUCTION.search(line)
            if kind and kind.group(1) not in FREE - {"custom-call"}:
                inner.update(CALLERS.findall(line))
    seen: collections.Counter[str] = collections.Counter()
    for name, lines in parts.items():
        for line in lines if name not in inner else ():
            kind = INSTRUCTION.search(line)
            if kind is None or kind.group(1) in FREE or LIBRARY.search(line):
                continue
            if kind.group(1) == "fusion":
                seen[canonical(parts[CALLERS.findall(line)[0]])] += 1
            elif kind.group(1) == "dot":  # Products are never shared.
                seen[f"{name} {line}"] += 1
            else:
                seen[canonical([line])] += 1
    copies = len(re.findall(rf"\b{operation}\(", program))
    return Cost(len(seen), sum(seen.values()), copies)


def cost(function: Callable[..., Any], *args: Any, operation: str = "tanh") -> Cost:
    """What `jax.jit(function)` costs at `args`."""
    return count(jax.jit(function).lower(*args).compile().as_text(), operation)
