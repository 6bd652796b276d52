"""Every benchmark runs from its command, and writes what it promises.

In a process of its own each: benchmarks pin threads and configure JAX.
"""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from ..asdex_here import needs_asdex

ROOT = pathlib.Path(__file__).parents[2]
BENCHMARKS = {
    "gradient": ["--sizes", "3", "--seconds", "0.05", "--compile-repeats", "1"],
    "decorated": ["--sizes", "3", "--seconds", "0.05"],
    "sparse": ["--sizes", "6", "8", "--repeats", "1"],
    "programs": ["--sizes", "20", "--functions", "network", "--repeats", "1", "--only"],
    "host": ["--sizes", "2", "--lanes", "3", "--seconds", "0.05"],
    "lanes": ["--lanes", "5", "--seconds", "0.05"],
    "conditioning": ["--unknowns", "6", "--draws", "2", "--conditions", "2", "5"],
    "quadratic_programs": ["--sizes", "10", "--lanes", "2", "--seconds", "0.001"],
    "nonlinear_programs": ["--every", "150", "--largest", "8"],
    "cvxpy_layers": ["--size", "6", "--calls", "1"],
    "equilibrium_layers": ["--size", "4", "--lanes", "2", "--radii", "0.9"],
    "brusselator": ["--sizes", "8", "--steps", "4"],
    "profile": ["--every", "40", "--seconds", "0.001"],
    "cutest": ["--every", "100"],
}


def run(name, folder, *, more=(), optimised=False):
    """Run a benchmark in small; what it wrote as JSON and as Markdown."""
    unoptimised = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS") if optimised else ()
    environment = {k: v for k, v in os.environ.items() if k not in unoptimised}
    command = [sys.executable, "-m", f"benchmarks.{name}", *BENCHMARKS[name]]
    done = subprocess.run(
        [*command, *more, "--output", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    record = json.loads((folder / f"{name}.json").read_text())
    page = (folder / f"{name}.md").read_text()
    assert f"]({name}.png)" in page
    assert "| --- |" in page or "|---|" in page
    assert record["versions"]["jax"] in page
    return record, page


def numbers(tree):
    """All numbers in nested dictionaries and lists."""
    if isinstance(tree, dict | list):
        values = tree.values() if isinstance(tree, dict) else tree
        return [x for value in values for x in numbers(value)]
    return [tree] if isinstance(tree, float) else []


SPARSE = pytest.param("sparse", marks=needs_asdex)


@pytest.mark.parametrize(
    "name",
    [
        "gradient",
        "decorated",
        "host",
        "lanes",
        "brusselator",
        "quadratic_programs",
        SPARSE,
    ],
)
def test_times_are_measured(name, tmp_path):
    record, _ = run(name, tmp_path)
    found = numbers(record.get("rows", record.get("seconds")))
    assert len(found) >= 8
    assert all(abs(x) < 1e6 for x in found)


#: The most distinct kernels, and copies of `fn`, of value and gradient in a program:
#: one that grows is felt at every first call.
KERNELS = {
    "ix.root": (110, 4),
    "ix.Newton": (85, 4),
    "ix.least_squares": (250, 8),
    "ix.minimize": (170, 6),
    "ix.fixed_point": (125, 5),
}


def test_programs_do_not_grow(tmp_path):
    """As users compile them: the tests' own programs are not optimised."""
    record, _ = run("programs", tmp_path, more=KERNELS, optimised=True)
    for name, (kernels, copies) in KERNELS.items():
        row = record["network, n = 20"][name]
        assert 20 < row["kernels"] <= kernels, (name, row)
        assert 0 < row["copies"] <= copies, (name, row)


def test_ill_conditioned_gradients_are_compared_with_exact_ones(tmp_path):
    record, page = run("conditioning", tmp_path)
    for dtype, eps in (("float64", 2.3e-16), ("float32", 1.2e-7)):
        easy, hard = record["rows"][dtype]["1e2"], record["rows"][dtype]["1e5"]
        # Were the exact gradient wrong, no solver would be this near to it.
        assert 0 < easy["dense LU"]["error"] <= 1e2 * 10 * eps
        assert easy["dense LU"]["error"] < hard["dense LU"]["error"] <= 1e5 * 10 * eps
        for row in (easy, hard):
            for ours in (row["ix.root"], row["ix.custom_root"]):
                assert ours["says_no"] > 0 or ours["worst_against_lu"] <= 100
    assert "ix.certify" in page


def test_solvers_are_judged_and_error_bars_are_right(tmp_path):
    record, page = run("profile", tmp_path)
    for rows in record["rows"].values():
        assert all(row["verdict"] != "failed" for row in rows["implicax"].values())
        assert len({tuple(own) for own in rows.values()}) == 1
    bars = [one for own in record["error_bars"].values() for one in own]
    ratios = [ratio for one in bars for ratio in one["ratios"]]
    assert ratios
    assert all(0.5 <= ratio <= 2.0 for ratio in ratios)
    assert "Not solved" in page


@pytest.mark.skipif(
    importlib.util.find_spec("sif2jax") is None,
    reason="sif2jax, the problems, is of the dependency group `bench`",
)
@pytest.mark.parametrize("name", ["cutest", "nonlinear_programs"])
def test_nobody_wrongly_says_to_have_solved_it(name, tmp_path):
    progress = ["--progress", str(tmp_path / "progress.jsonl")]
    record, page = run(name, tmp_path, more=progress)
    rows = record["rows"]
    rows = rows.values() if isinstance(rows, dict) else rows
    assert len(rows) >= 1
    for row in rows:
        assert row["implicax"]["outcome"] in ("right", "right, not said", "refused")
    assert "Wrong:" in page


def test_make_bench_runs_them_all():
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"-m benchmarks\.(\w+)", makefile)) == set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_results_are_there(name):
    for ending in ("json", "md", "png"):
        assert (ROOT / "benchmarks" / "results" / f"{name}.{ending}").stat().st_size
