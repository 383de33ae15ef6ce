import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lightning_dpo

ROOT = Path(lightning_dpo.__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="only in a checkout")


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "lightning_dpo").rglob("__init__.py")
    } | {f"lightning_dpo.{name}" for name in ("conf", "experiments", "sweeps")}
    assert set(listed) == found


def test_constraints_pin_every_dependency_to_a_version_that_is_allowed():
    """Whatever is installed: the tests are also for those who install without constraints."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pinned = {canonicalize_name(name): number for name, number in (line.split("==") for line in lines)}
    assert all("+" not in number for number in pinned.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]]):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.timeout(240)
def test_a_wheel_works_from_another_folder(tmp_path):
    # From a copy: setuptools builds inside the tree, and would take up what an earlier build left there.
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "outputs", "*.egg-info", "tests"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, copy],
        check=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {"lightning_dpo/conf/train.yaml", "lightning_dpo/py.typed", "lightning_dpo/sweeps/beta.yaml"} <= set(names)
    assert not [name for name in names if name.startswith("tests")]
    # Isolated from the checkout: the wheel's folder is the only one on the path besides what is installed.
    for arguments in (["--cfg", "job"], ["experiment=hh_pythia28", "--cfg", "job"], ["loss.beta=-1"]):
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from lightning_dpo.train import main; main()"
        result = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "site", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": ""},
        )  # fmt: skip
        output = result.stdout + result.stderr
        expected = "beta must be a positive number" if "loss.beta=-1" in arguments else "lightning_dpo.losses.DPO"
        assert expected in output
