"""``krypton ...``: the command line. A command is a file in ``commands/``; what several need stands here."""

from krypton_engine.cli.program import main

__all__ = ["main"]
