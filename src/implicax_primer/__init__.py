"""The primer: a classic problem solved, differentiated, certified and timed.

`python -m implicax primer` runs it; `run` computes it as data (it needs neither rich
nor matplotlib).
"""

from ._run import Primer as Primer
from ._run import run as run
