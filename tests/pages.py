"""The blocks of code on a page, and what they print."""

import contextlib
import io
import re
import textwrap

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
ROUNDING = re.compile(r"\b(\d\.\d+e-(1[4-9]|[2-9]\d)|0\.0+e\+00)\b")


def blocks(text):
    """The (language, code) pairs of a page, in order."""
    return [(m[1], textwrap.dedent(m[3])) for m in BLOCK.finditer(text)]


def normalised(output):
    return ROUNDING.sub("<rounding>", output.rstrip())


def run(code, namespace, name):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, name, "exec"), namespace)
    return output.getvalue()
