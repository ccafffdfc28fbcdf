"""One process of a stack. usage: python -m peers MODULE FUNCTION"""

from __future__ import annotations

import sys
from importlib import import_module

getattr(import_module(f"peers.{sys.argv[1]}"), sys.argv[2])()
