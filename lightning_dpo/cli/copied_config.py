"""`lightning-dpo cp GROUP/NAME FOLDER/GROUP/NEW_NAME.yaml`: a copy of a config, an experiment or a sweep to edit."""

import argparse
import shlex
import sys
from pathlib import Path

from lightning_dpo.cli.arguments import suggestion
from lightning_dpo.cli.config import CONFIG_DIR, ROOT
from lightning_dpo.errors import UserError
from lightning_dpo.run_folder import write_atomically

_NAMED = ("experiment", "sweep")  # groups whose files have their own folders


def options() -> dict[str, Path]:
    """The files of all groups by `GROUP/NAME`."""
    groups = {file.relative_to(CONFIG_DIR).with_suffix("").as_posix(): file for file in CONFIG_DIR.glob("*/**/*.yaml")}
    named = {f"{group}/{file.stem}": file for group in _NAMED for file in (ROOT / f"{group}s").glob("*.yaml")}
    return {name: file for name, file in sorted({**groups, **named}.items()) if not name.startswith("hydra/")}


def copy(name: str, target: Path) -> list[str]:
    """Copy an option to a config folder of the user.

    Args:
        name: `GROUP/NAME`, such as `experiment/hh_llama`.
        target: The new file, in a folder with the name of the group: `FOLDER/GROUP/NEW_NAME.yaml`.

    Returns:
        Arguments with which `train` uses the copy.

    Raises:
        UserError: The option does not exist, or Hydra would not find the copy.
    """
    known = options()
    if name not in known:
        raise UserError(f"{name} is not a config{suggestion(name, known)}; `lightning-dpo cp` lists them")
    group = name.rpartition("/")[0]
    better = Path("my_conf", group, "mine.yaml")
    parts = Path(group).parts
    if target.suffix != ".yaml" or target.parent.parts[-len(parts) :] != parts:
        raise UserError(f"{target}: the copy must be in a folder {group}/ and end in .yaml, for example {better}")
    if f"{group}/{target.stem}" in known:
        raise UserError(
            f"{target}: {group}={target.stem} exists already, so Hydra could not tell them apart; rename it"
        )
    if target.exists():
        raise UserError(f"{target} exists already, and is not replaced")
    folder = target.parents[len(parts)]
    # The first comment shows how the original is used.
    lines = known[name].read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("# python -m lightning_dpo.train")]
    write_atomically(target, "".join(kept))
    return ["--config-dir", str(folder), f"{group}={target.stem}"]


def main() -> None:
    """The console script."""
    parser = argparse.ArgumentParser(
        prog="lightning-dpo cp",
        description="Copies a config, an experiment or a sweep to a config folder of your own, to edit it. Without "
        "arguments, it lists what can be copied.",
    )
    parser.add_argument("name", nargs="?", metavar="GROUP/NAME", help="such as experiment/hh_llama or loss/dpo")
    parser.add_argument(
        "target", nargs="?", type=Path, metavar="FILE", help="the copy, such as my_conf/experiment/mine.yaml"
    )
    arguments = parser.parse_args()
    if arguments.name is None:
        print("\n".join(options()))
        return
    if arguments.target is None:
        parser.error("FILE is missing: the copy, such as my_conf/experiment/mine.yaml")
    try:
        used = copy(arguments.name, arguments.target)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"Wrote {arguments.target}. Use it with: lightning-dpo train {shlex.join(used)}")


if __name__ == "__main__":
    main()
