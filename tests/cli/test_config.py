import itertools
import re
from pathlib import Path

import pytest

from lightning_dpo.cli.config import ROOT, run_folder
from lightning_dpo.errors import UserError

YAML_FILES = sorted(file for name in ("conf", "experiments", "sweeps") for file in (ROOT / name).rglob("*.yaml"))


@pytest.mark.parametrize("file", YAML_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_key_has_a_comment(file):
    """The line above a key is a comment, unless the key opens a block, is Hydra's own, or carries on such a key."""
    lines = file.read_text().splitlines()
    assert lines[0].startswith("#")
    for above, line in itertools.pairwise(lines):
        match = re.match(r"\s*([A-Za-z][\w.]*):\s+(\S.*)$", line)
        if match and ": " not in match[2]:  # not a line inside a mapping that runs over several
            assert above.lstrip().startswith("#"), f"{file.name}: {line.strip()} has no comment above it"


def test_a_new_run_has_a_new_folder(tmp_path):
    folders = {run_folder("name", None, root=str(tmp_path)) for _ in range(2)}
    assert {str(path) for path in (tmp_path / "name").iterdir()} == folders


def test_last_if_any_is_a_new_folder_without_a_run_to_resume(tmp_path):
    new = run_folder("name", "last_if_any", root=str(tmp_path))
    (Path(new) / "checkpoints").mkdir()
    (Path(new) / "checkpoints" / "last.ckpt").touch()
    assert run_folder("name", "last_if_any", root=str(tmp_path)) == new
    (Path(new) / "metrics.json").touch()
    assert run_folder("name", "last_if_any", root=str(tmp_path)) != new


def test_last_is_the_newest_unfinished_run(tmp_path):
    for time, finished in (("1", False), ("2", False), ("3", True), ("4", None)):
        folder = tmp_path / "name" / time
        (folder / "checkpoints").mkdir(parents=True)
        if finished is not None:  # the fourth died before its first checkpoint
            (folder / "checkpoints" / "last.ckpt").touch()
        if finished:
            (folder / "metrics.json").touch()
    assert Path(run_folder("name", "last", root=str(tmp_path))).name == "2"


def test_nothing_to_continue_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"ckpt_path=last: .*name has no unfinished run with a checkpoint"):
        run_folder("name", "last", root=str(tmp_path))


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a=b", "x" * 101])
def test_a_run_name_is_a_folder_name(tmp_path, name):
    with pytest.raises(UserError, match="run_name="):
        run_folder(name, None, root=str(tmp_path))
