"""``krypton ...``: the command line. A command is a file in ``commands/``; shared parts stand beside."""

from krypton_engine.cli.program import main

__all__ = ["main"]
