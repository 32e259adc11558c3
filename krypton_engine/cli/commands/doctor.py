"""``krypton doctor``."""

from __future__ import annotations

import argparse

from krypton_engine.cli.command import USER_ERROR, Command
from krypton_engine.cli.installation import show_installation
from krypton_engine.cli.text import row, say


def _add_options(parser: argparse.ArgumentParser) -> None:
    pass


def _doctor(arguments: argparse.Namespace) -> int:
    if not show_installation():
        return USER_ERROR
    from krypton_engine.cli.advice import Machine, advice
    from krypton_engine.cli.speed import measured, rows

    machine = Machine.here()
    speed = measured()
    say("", f"speed of {speed.question}")
    for name, value in rows(speed):
        row(f"  {name}", value)
    say("", "faster")
    for sentence in advice(machine) or ["nothing that this program knows of would make it faster"]:
        say(f"  {sentence}", indent="  ")
    return 0


COMMAND = Command(
    "doctor", "what is installed, how fast this machine runs it, and what would help", _add_options, _doctor
)
