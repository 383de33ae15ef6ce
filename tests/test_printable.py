import io
import logging
import sys

import pytest

from lightning_dpo import printable
from lightning_dpo.printable import Printable, hide_environment, name_of, one_line
from tests.support.command import TINY, command

TERMINAL = ["\x1b[2J", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x9b31m", "\r", "\u202e", "\x00", "\x08"]


@pytest.mark.parametrize("text", TERMINAL)
def test_nothing_controls_a_terminal(text):
    shown = printable.printable(f"a{text}b\tc\nd")
    assert shown.isprintable() or shown.replace("\t", "").replace("\n", "").isprintable()
    assert shown.endswith("b\tc\nd")


@pytest.mark.parametrize("text", ["../../evil\x1b[31m", "<script>", "a|b\n# heading", "x" * 200])
def test_a_name_is_text_of_one_line(text):
    assert len(name_of(text)) <= 80
    assert not set(name_of(text)) & set("<>|\n#\x1b[")
    assert name_of("hh/red-team v1.0") == "hh/red-team v1.0"


def test_an_encoding_without_a_character_does_not_end_a_command(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    printable.escape_unencodable()
    print("KL(π‖π_ref)", flush=True)
    assert stdout.buffer.getvalue() == b"KL(\\u03c0\\u2016\\u03c0_ref)\n"


def test_log_messages_are_printable():
    record = logging.LogRecord("n", logging.INFO, "p", 1, "a %s", ("\x1b[2J",), None)
    assert Printable().filter(record)
    assert record.getMessage() == "a \\x1b[2J"


def test_values_of_the_environment_are_not_shown(monkeypatch):
    monkeypatch.setattr(printable, "_hidden", {})
    monkeypatch.setenv("KEY", "SENTINEL")
    monkeypatch.setenv("ONE", "1")
    hide_environment("a: ${oc.env:KEY}\nb: ${oc.env:ONE}")
    assert one_line("beta=SENTINEL is\nnot 1") == "beta=${oc.env:KEY} is not 1"


def test_an_error_about_such_a_value_does_not_write_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BETA", "SENTINEL")
    status, output = command(tmp_path, *TINY, "loss.beta=${oc.env:BETA}")
    assert (status, "loss.beta=${oc.env:BETA}" in output) == (1, True)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"SENTINEL" in file.read_bytes()]
