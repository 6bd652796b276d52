"""Eight devices give the answers of one, and the batch stays where it is.

What each program communicates is read from its compiled form: sums over the mesh
(norms, the gradient of shared arguments), and, where the features are spread out, the
features of the rows at hand. Never the batch.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from implicax._linear.krylov import DIRECTIONS
from implicax._solvers.residual_noise import SAMPLES

from ..sharding_worker import BATCH, CASES, COLLECTIVE, FIELD, PLACES, TYPED

ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
}


def of(*places):
    return [case for case in CASES if case.split()[0] in places]


@pytest.fixture(scope="module")
def found():
    process = subprocess.run(
        [sys.executable, "-m", "tests.sharding_worker"],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("case", CASES)
def test_the_answers_are_those_of_one_device(found, case):
    """Value and gradient, to the tolerance of the solve; and the solution is
    distributed as the arguments are."""
    assert found[case]["error"] <= 1e-11
    assert found[case]["kept"]


@pytest.mark.parametrize("case", of("large-batch", "small-batch", "lanes"))
def test_a_batch_that_is_spread_out_is_only_summed_over(found, case):
    collectives = found[case]["collectives"]
    assert collectives, "the compiled program was not understood"
    assert {operation for operation, _ in collectives} == {"all-reduce"}
    assert not [c for c in collectives if _of_the_batch(c)]


@pytest.mark.parametrize("case", of("batch-and-model"))
def test_spread_out_features_are_exchanged_within_rows(found, case):
    """The product with a distributed `W` needs all features of the local rows."""
    collectives = found[case]["collectives"]
    assert ["all-gather", [BATCH // 4, 20]] in collectives
    assert not [c for c in collectives if _of_the_batch(c)]


@pytest.mark.parametrize("case", of("model"))
def test_spread_out_weights_stay_where_they_are(found, case):
    """Vectors are communicated, matrices (`W`, the Jacobian) are not."""
    collectives = found[case]["collectives"]
    assert ["all-gather", [512]] in collectives
    assert all(len(shape) <= 1 for _, shape in collectives if 512 in shape)


def test_a_field_exchanges_its_edges(found):
    """By Newton and Krylov, value and gradient: sums, and rows at the edges."""
    assert found["field"]["error"] <= 1e-11
    assert found["field"]["kept"]
    collectives = found["field"]["collectives"]
    operations = {operation for operation, _ in collectives}
    assert operations == {"all-reduce", "collective-permute"}
    largest = FIELD[0] // 8 * (FIELD[1] + 2)
    for operation, shape in collectives:
        if operation == "collective-permute":
            # (Of so many fields at once, where it is looked along several directions.)
            many = len(shape) > 2 and shape[0] in (DIRECTIONS, SAMPLES)
            assert np.prod(shape[1:] if many else shape) <= largest


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", TYPED)
def test_meshes_that_keep_account(found, name, place):
    """`jax.shard_map` with its checks, and explicit axes."""
    assert found["typed"][f"{name} {place}"] <= 1e-8


PAGE = """
import pathlib
import jax
from tests.docs.test_documentation import check_page
assert jax.device_count() == 8
page = pathlib.Path("docs/many-devices.md")
check_page(page.read_text(), str(page))
"""


def test_the_page_says_the_same_on_eight_devices():
    """(The documentation's own test leaves it to this one.)"""
    process = subprocess.run(
        [sys.executable, "-c", PAGE],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr


def test_a_gathered_batch_would_be_noticed():
    line = f"%all-gather.3 = f64[{BATCH},80]{{1,0}} all-gather(%p), dimensions={{0}}"
    ((shapes, operation),) = COLLECTIVE.findall(line)
    assert (shapes.split("{")[0], operation) == (f"f64[{BATCH},80]", "all-gather")
    assert _of_the_batch(["all-gather", [BATCH, 80]])
    assert _of_the_batch(["all-gather", [BATCH * 10]])
    assert not _of_the_batch(["all-gather", [BATCH // 4, 80]])


def _of_the_batch(collective):
    _, shape = collective
    return any(size and size % BATCH == 0 for size in shape)
