"""What every benchmark writes: figures as JSON, a table, a plot, how they were made."""

import argparse
import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable, Iterable
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"
#: What every gradient that is timed must reach, relative to the exact one.
ACCURACY = 1e-8


def parser(doc: str) -> argparse.ArgumentParser:
    """The options that all benchmarks share; the page's first line explains."""
    made = argparse.ArgumentParser(description=doc.split("\n")[0])
    made.add_argument("--output", type=pathlib.Path, default=RESULTS)
    return made


def markdown(header: list[str], rows: Iterable[list[Any]]) -> str:
    """A table; what is not text is aligned to the right and kept to three digits."""
    lines = [
        [cell if isinstance(cell, str) else f"{cell:.3g}" for cell in r] for r in rows
    ]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *lines])


def save(
    output: pathlib.Path,
    name: str,
    title: str,
    results: dict[str, Any],
    text: str,
    draw: Callable[[Any], Any],
) -> None:
    """Write `name.json`, `name.md` (title, provenance, `text`, plot) and `name.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    packages = ("implicax", "jax", "lineax", "optimistix", "jaxopt")
    versions = {package: importlib.metadata.version(package) for package in packages}
    command = f"python -m benchmarks.{name}"
    setting = f"{platform.machine()}, one thread"
    output.mkdir(parents=True, exist_ok=True)
    record = {"command": command, "versions": versions, "machine": setting} | results
    (output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    listed = ", ".join(f"{package} {version}" for package, version in versions.items())
    (output / f"{name}.md").write_text(
        f"# {title}\n\nMade by `{command}`, a part of `make bench` ({listed}; "
        f"{setting}).\n\n{text}\n\n![{title}]({name}.png)\n"
    )
    draw(plt).savefig(output / f"{name}.png", dpi=120)
