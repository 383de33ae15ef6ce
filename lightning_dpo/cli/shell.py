"""The arguments of a command as the shell passes them, brought into the form that Hydra expects."""

import os
import re
import shlex
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from lightning_dpo.cli.other_names import instead_of
from lightning_dpo.errors import UserError
from lightning_dpo.runs.settings_files import quoted

# Hydra does not accept these values for a group.
_NO_LOGGER = re.compile(r"(?:\+{0,2}trainer\.)?logger=(?:null|none|false|\[\])|~logger", re.IGNORECASE)
# As in data/sources/files.py, whose imports take long.
_FILES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
_VALUE = re.compile(r"-+([A-Za-z_][\w./@]*)(?:=(.*))?", re.DOTALL)


def ordered(arguments: Sequence[str]) -> list[str]:
    """The arguments with flags first: argparse accepts no overrides after a flag that follows other overrides.

    >>> ordered(["loss=dpo", "--cfg", "job", "loss.beta=0.3", "~logger"])
    ['--cfg', 'job', 'loss=dpo', 'loss.beta=0.3', 'logger=none']

    Raises:
        UserError: An override has dashes.
    """
    parser = get_args_parser()
    known = {flag: action for action in parser._actions for flag in action.option_strings}
    flags: list[str] = []
    overrides: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        name = argument.partition("=")[0]
        if not argument.startswith("-"):
            overrides.append("logger=none" if _NO_LOGGER.fullmatch(argument) else argument)
            continue
        action = known.get(name)
        if action is None:
            _explain_dashes(argument, waiting)
        if action is not None and action.nargs == 0 and "=" in argument:
            raise UserError(f"{argument}: this flag has no value, write {name}")
        flags.append(argument)
        # `nargs` is None for flags with a value, 0 for those without, and "?" for an optional value.
        takes_value = action is not None and action.nargs is None and "=" not in argument
        optional = action is not None and action.nargs == "?" and waiting and waiting[0] in (action.choices or ())
        if (takes_value or optional) and waiting:
            flags.append(waiting.pop(0))
    return flags + overrides


def _explain_dashes(argument: str, following: Sequence[str]) -> None:
    """Reject an override with dashes, such as `--loss.beta=0.2`."""
    match = _VALUE.fullmatch(argument)
    if match is None or (argument.startswith("-") and len(match[1]) < 2):
        return
    key, value = match[1], match[2]
    if value is None:
        value = following[0] if following and not following[0].startswith("-") and "=" not in following[0] else "VALUE"
    instead = instead_of(key, ())
    advice = instead or f"write {key}={value}"
    if "WANDB_SWEEP_ID" in os.environ:  # an agent of a wandb sweep wrote the argument
        advice = "in the command of a wandb sweep, use ${args_no_hyphens}"
    raise UserError(f"{argument}: settings have no dashes, {advice}")


def explain_override(error: OverrideParseException, arguments: Sequence[str]) -> str:
    """What to write instead of an override that Hydra cannot parse.

    Args:
        error: What Hydra raised.
        arguments: Arguments of the command line.
    """
    override = str(error.override) if error.override else next(filter(_fails, arguments), "")
    key, equals, value = override.partition("=")
    if not equals:
        example = f"data=jsonl data.path={override}" if override.endswith(_FILES) else "loss.beta=0.2"
        return f"{override} is not a setting: write KEY=VALUE, such as {example}"
    better = f"{key}={quoted(value)}"
    if not _fails(better):
        return (
            f"{override} cannot be parsed because of special characters: quote the value for Hydra, and the whole for "
            f"the shell: {shlex.quote(better)}"
        )
    return f"{override} cannot be parsed: {' '.join(str(error).split())}"


def _fails(override: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([override])
    except OverrideParseException:
        return True
    return False
