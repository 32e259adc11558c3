"""``python -m krypton_engine``: the same as ``krypton``."""

import sys

from krypton_engine.cli import main

sys.exit(main())
