"""One thread, float64. Import this before JAX: a shared machine's idle threads make
LAPACK times meaningless."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
)
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax

jax.config.update("jax_enable_x64", True)
# Calls that hop between threads on one core measure the hop.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_enable_compilation_cache", False)
