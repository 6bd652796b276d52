"""Every test runs in float64 mode with strict dtype and rank promotion.

The tests spend nearly all of their time on compiling: so the compiler does not optimise
(the processes that tests start inherit that), and compiled programs are kept in
`.cache/jax` for the next run.
"""

import gc
import importlib.metadata
import os
import pathlib

import pytest

#: Passes that make a program faster, not right, and take a quarter of the compile time
#: of a default (measured pass by pass, with `TF_CPP_VMODULE=hlo_pass_pipeline=1`).
SLOW_PASSES = (
    "while-loop-invariant-code-motion",
    "while-loop-trip-count-annotator",
    "post_scatter_expansion_simplification",
    "cpu-parallel-task-assigner",
)
#: Splitting a program for many threads only costs, where every core has a worker.
QUICK = (
    "--xla_cpu_parallel_codegen_split_count=1 "
    f"--xla_disable_hlo_passes={','.join(SLOW_PASSES)}"
)
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # The older emitter is quicker. (XLA aborts at a flag that it does not know, and
    # later ones do not know this one.)
    QUICK += " --xla_cpu_use_fusion_emitters=false"
    # Batches of programs may hang else (docs/concepts/programs.md).
    QUICK += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
#: As users compile: for a job of its own.
OPTIMISED = os.environ.get("IMPLICAX_TEST_OPTIMISED") == "1"
if not OPTIMISED:
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Two workers on two cores: LAPACK's own threads would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax  # noqa: E402  (LAPACK reads its environment when it is loaded)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Where each operation comes from is for readers of programs: nobody reads these.
jax.config.update("jax_traceback_in_locations_limit", 0)
cache = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


#: `make check`: the rule, the linear solves, the verdicts and the errors.
CORE = (
    "bad_input",
    "componentwise",
    "first_mistakes",
    "house",
    "linear_paths",
    "own_problems",
    "failures",
    "verdict",
    "certificate",
    "problem_library",
)


#: Begun first: else one worker is left with them at the end, and the others wait.
LONG = ("problem_solving", "documentation", "field_fits", "accuracy")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)
    for item in items:
        if item.path.stem.removeprefix("test_") in CORE:
            item.add_marker("core")


@pytest.fixture(autouse=True, scope="module")
def _forget():
    """Thousands of compiled programs are more memory maps than a process may have
    (65530, as Linux comes): each module leaves none behind. Garbage is collected then
    too: looking for it while programs are traced is a tenth of the time."""
    gc.disable()
    yield
    gc.enable()
    jax.clear_caches()
    gc.collect()
