"""The parser of all commands, and the look of its help."""

from __future__ import annotations

import argparse
from typing import NoReturn

from krypton_engine import __version__
from krypton_engine.cli.commands import COMMANDS
from krypton_engine.cli.messages import UsageError
from krypton_engine.cli.text import command_lines, wrapped

_EXAMPLES = """\
examples:
  krypton demo
  krypton explain photo.jpg --model efficientnet-lite0 --window 32 --stride 8 --out map.png
  krypton explain scan.png --model mymodels:build --weights best.pt --size 224 --target tumour
  krypton tune scans/ --model mymodels:build --weights best.pt --size 224 --out tuning.json
  krypton explain scan.png --model mymodels:build ... --ssim 0.9 --tuning tuning.json
  krypton explain scan.png --model mymodels:build ... --regions slic:100 --out regions.npz
  krypton collect photos/ --model efficientnet-lite0 --window 32 --stride 16 --out maps
  krypton compare map.npz regions.npz scan.png --model mymodels:build ...
  krypton plan resnet18 --window 16 --stride 4
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors come without the usage lines, which may fill a screen."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n({self.prog} --help lists what is accepted)")


class _Help(argparse.HelpFormatter):
    """Help whose lines break between words only, and whose commands break so that a shell takes them."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = []
        for line in text.splitlines():
            broken = command_lines if line.startswith(" ") else wrapped
            lines += broken(indent + line, width, indent)
        return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``krypton`` and of every command.

    Examples:
        >>> arguments = build_parser().parse_args(["plan", "resnet18", "--window", "32"])
        >>> arguments.model, arguments.window, arguments.stride
        ('resnet18', (32, 32), (4, 4))
    """
    parser = _Parser(
        prog="krypton",
        description="Occlusion explanations of CNNs by incremental inference: Captum's numbers, sooner.",
        epilog=_EXAMPLES,
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"krypton {__version__}")
    everywhere = _Parser(add_help=False)
    for each in (parser, everywhere):
        each.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    for command in COMMANDS:
        made = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            parents=[everywhere],
            formatter_class=_Help,
        )
        command.add_options(made)
        made.set_defaults(run=command.run)
    return parser
