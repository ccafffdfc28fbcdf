"""The `receiver` command of a build with functions replaced.

usage: python -m builds BUILD[+BUILD…] serve …
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from builds.seams import BUILDS
from receiver.cli import main

if __name__ == "__main__":
    with ExitStack() as stack:
        for name in sys.argv.pop(1).split("+"):
            stack.enter_context(BUILDS[name]())
        main()
