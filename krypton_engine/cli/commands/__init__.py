"""The commands of ``krypton``, one file each; a new one is a file with a ``COMMAND`` and a line below."""

from krypton_engine.cli.commands import collect, compare, demo, doctor, explain, info, plan, tune

# As ``krypton --help`` lists them.
COMMANDS = (
    demo.COMMAND, explain.COMMAND, collect.COMMAND, compare.COMMAND, tune.COMMAND, plan.COMMAND, info.COMMAND,
    doctor.COMMAND,
)  # fmt: skip
