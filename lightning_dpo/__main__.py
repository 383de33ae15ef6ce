"""`lightning-dpo COMMAND`, or `python -m lightning_dpo COMMAND`: one program for all commands.

`lightning-dpo train` is the same as `python -m lightning_dpo.train`. The module of a command is imported when it runs.
"""

import importlib
import os
import runpy
import signal
import sys
from typing import NamedTuple

from lightning_dpo.cli.arguments import suggestion

PROGRAM = "lightning-dpo"


class Command(NamedTuple):
    """A command of the program."""

    module: str
    """Its module in `lightning_dpo`, which can also be executed with `python -m`."""
    summary: str
    """What it does, for `--help`."""
    has_overrides: bool = False
    """Whether its arguments are overrides of a Hydra config, which tab completion knows."""


COMMANDS = {
    "train": Command("train", "train a model on preference pairs; with sweep=NAME or -m, several", has_overrides=True),
    "evaluate": Command("evaluate", "evaluate or score with a trained model", has_overrides=True),
    "inspect": Command("inspect_data", "print statistics and samples of preference data", has_overrides=True),
    "export": Command("export", "export a checkpoint for transformers or peft"),
    "report": Command("report", "write a page about a run, or compare the runs of a sweep or a folder"),
    "sample": Command("sample", "sample answers to your prompts, and score answers"),
    "cp": Command("cli.copied_config", "copy a config or an experiment to edit it"),
    "env": Command("cli.environment", "print versions and devices for a bug report"),
}

_HELP = """Usage: {program} COMMAND [ARGUMENTS]

Direct Preference Optimization for PyTorch Lightning, with Hydra experiment management.

{commands}

  --version   print the version
  --help      print this text; `{program} COMMAND --help` describes a command

Tab completion: eval "$({program} -sc install=bash)", also in zsh after `autoload -U +X bashcompinit && bashcompinit`;
in fish, {program} -sc install=fish | source"""


def main() -> None:
    """The console script."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(_help())
    elif name in ("--version", "version"):
        print(f"{PROGRAM} {importlib.import_module('lightning_dpo').__version__}")
    elif name in ("-sc", "--shell-completion"):
        complete(arguments)
    elif name in COMMANDS:
        sys.argv[1:] = arguments
        try:
            # As the main module, so that processes for other devices start the same command again.
            runpy.run_module(f"lightning_dpo.{COMMANDS[name].module}", run_name="__main__", alter_sys=True)
        except BrokenPipeError:  # the program that reads the output, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest at its end
            sys.exit(128 + signal.SIGPIPE)
    else:
        instead = f"; did you mean {PROGRAM} train {name}?" if "=" in name else suggestion(name, COMMANDS)
        print(f"Error: {name} is not a command{instead}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(1)


def complete(arguments: list[str]) -> None:
    """Print Hydra's script for tab completion, or answer its question: the words that can be at the cursor.

    Args:
        arguments: `install=SHELL`, `uninstall=SHELL` or `query=SHELL`. A query has the line in `COMP_LINE`.
    """
    command, query = "train", any(argument.startswith("query=") for argument in arguments)
    if query:
        # The line ends at the cursor. If no space follows the command, its name is still incomplete.
        program, _, rest = os.environ.get("COMP_LINE", "").lstrip().partition(" ")
        command, space, rest = rest.lstrip().partition(" ")
        if not space:
            print("\n".join(name for name in COMMANDS if name.startswith(command)))
            return
        if command not in COMMANDS or not COMMANDS[command].has_overrides:
            return
        os.environ["COMP_LINE"] = f"{program} {rest}"
    # Hydra's script names the program in `sys.argv`, so this is not executed as the main module.
    sys.argv = [PROGRAM, "-sc", *arguments]
    importlib.import_module(f"lightning_dpo.{COMMANDS[command].module}").main()


def _help() -> str:
    commands = "\n".join(f"  {name:<10}  {command.summary}" for name, command in COMMANDS.items())
    return _HELP.format(program=PROGRAM, commands=commands)


if __name__ == "__main__":
    main()
