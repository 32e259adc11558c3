"""``krypton info``."""

from __future__ import annotations

import argparse

from krypton_engine.cli.command import USER_ERROR, Command
from krypton_engine.cli.installation import show_installation


def _add_options(parser: argparse.ArgumentParser) -> None:
    pass


def _info(arguments: argparse.Namespace) -> int:
    return 0 if show_installation() else USER_ERROR


COMMAND = Command("info", "show versions, executors, and what is missing", _add_options, _info)
