"""Lets tests and the node processes they start import `toy_components`.

Not as `tests.orchestration.toy_components`: TFMA imports IPython, which puts a package of its own
named `tests` on the path.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
