"""What only a fresh process can show."""

import subprocess
import sys
import textwrap


def printed_without(modules: tuple[str, ...], code: str) -> list[str]:
    """The lines that `code` prints where these modules cannot be imported."""
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in modules)
    finished = subprocess.run(
        [sys.executable, "-c", f"import sys\n{blocked}{textwrap.dedent(code)}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return finished.stdout.splitlines()
