"""Two processes solve and differentiate one problem, in JAX's own distributed runtime.

They talk over the loopback interface. The test has a time limit of its own, and ends
the processes if it is exceeded or if one of them fails.
"""

import json
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

WORKER = pathlib.Path(__file__).parents[1] / "distributed_worker.py"
LIMIT = 120.0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(processes, limit=LIMIT, worker=WORKER):
    """What the first of the processes printed, once all have ended well."""
    port, start = free_port(), time.monotonic()
    running = [
        subprocess.Popen(
            [sys.executable, str(worker), str(port), str(processes), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    try:
        while any(process.poll() is None for process in running):
            failed = [process for process in running if process.poll()]
            if failed or time.monotonic() - start > limit:
                break
            time.sleep(0.05)
        else:
            failed = [process for process in running if process.returncode]
        if failed:
            pytest.fail(failed[0].communicate()[1])
        if any(process.poll() is None for process in running):
            raise TimeoutError(f"still running after {limit} seconds")
        outputs = [process.communicate()[0] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return json.loads(outputs[0].splitlines()[-1])


@pytest.fixture(scope="module")
def one():
    return together(1)


@pytest.fixture(scope="module")
def two():
    return together(2)


def test_every_process_holds_its_own_rows(one, two):
    assert (one["devices"], one["rows here"]) == (2, 16)
    assert (two["devices"], two["rows here"]) == (4, 8)
    assert not two["gathers"]


def test_two_processes_find_what_one_finds(one, two):
    for key in ("value", "W", "x"):
        np.testing.assert_allclose(two[key], one[key], rtol=1e-12, atol=1e-15)


def test_a_process_that_never_comes_is_not_waited_for(tmp_path):
    script = tmp_path / "late.py"
    script.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(TimeoutError):
        together(2, limit=0.5, worker=script)
