"""The `receiver` command of a broken build.

usage: python -m experiments.build BUILD serve …
"""

from __future__ import annotations

import sys

from experiments.broken import BUILDS
from receiver.cli import main

if __name__ == "__main__":
    with BUILDS[sys.argv.pop(1)]():
        main()
