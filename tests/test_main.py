import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from lightning_dpo.__main__ import COMMANDS


def program(*arguments: str, line: str = "", folder=None) -> tuple[int, str]:
    """Exit status and output of the program; `line` is what the shell passes for tab completion."""
    result = subprocess.run(
        [sys.executable, "-m", "lightning_dpo", *arguments],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"COMP_LINE": line}, cwd=folder,
    )  # fmt: skip
    return result.returncode, result.stdout + result.stderr


def test_help_lists_every_command_and_the_version_is_that_of_the_package():
    status, text = program("--help")
    assert status == 0
    for name, command in COMMANDS.items():
        assert f"  {name:<10}  {command.summary}" in text
    assert program() == (status, text)
    assert program("--version") == (0, f"lightning-dpo {version('lightning-dpo')}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_describes_itself(name):
    status, text = program(name, "--help")
    assert status == 0
    assert f"lightning-dpo {name}" in text or f"lightning_dpo.{COMMANDS[name].module}" in text


def test_a_command_gets_its_arguments(tmp_path):
    status, text = program("train", "loss.beta=abc", folder=tmp_path)
    assert status == 1
    assert "loss.beta=abc: Input should be a valid number" in text


@pytest.mark.parametrize(
    ("name", "advice"),
    [("trian", "did you mean train?"), ("loss.beta=1", "did you mean lightning-dpo train loss.beta=1?")],
)
def test_an_unknown_command(name, advice):
    status, text = program(name)
    assert status == 1
    assert text.startswith(f"Error: {name} is not a command; {advice}; there are train, evaluate, ")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lightning-dpo e", ["evaluate", "export", "env"]),
        (
            "lightning-dpo train scheduler=",
            ["scheduler=transformers", "scheduler=warmup_constant", "scheduler=warmup_cosine"],
        ),
        ("lightning-dpo inspect shown", ["shown="]),
        ("lightning-dpo report outputs", []),
        ("lightning-dpo trian x", []),
    ],
)
def test_tab_completion(line, words):
    status, text = program("-sc", "query=bash", line=line)
    assert (status, text.split()) == (0, words)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_tab_completion_names_the_program(shell):
    status, text = program("-sc", f"install={shell}")
    assert status == 0
    assert "lightning-dpo" in text.splitlines()[-1] or "complete -c lightning-dpo" in text
