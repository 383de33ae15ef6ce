"""Arguments as users type them; advice is followed literally."""

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from lightning_dpo.cli.shell import explain_override, ordered
from lightning_dpo.errors import UserError


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("loss=dpo --cfg job loss.beta=0.3", "--cfg job loss=dpo loss.beta=0.3"),
        ("loss=dpo --config-dir my conf.a=1", "--config-dir my loss=dpo conf.a=1"),
        ("a=1 -m b=1,2 --config-name=mine", "-m --config-name=mine a=1 b=1,2"),
        ("a=1 --info b=2", "--info a=1 b=2"),
        ("a=1 --info plugins b=2", "--info plugins a=1 b=2"),
        ("-sc install=bash", "-sc install=bash"),
        ("~logger +trainer.logger=false logger=null", "logger=none logger=none logger=none"),
        ("logger=[csv,wandb] logger.csv=null", "logger=[csv,wandb] logger.csv=null"),
    ],
)
def test_flags_come_first_and_no_logger_is_an_option(given, expected):
    assert ordered(given.split()) == expected.split()


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ("--loss.beta=0.2", "settings have no dashes, write loss.beta=0.2"),
        ("--loss.beta 0.2", "write loss.beta=0.2"),
        ("--seed -m", "write seed=VALUE"),
        ("-loss.beta=0.2", "write loss.beta=0.2"),
        ("--learning_rate 1e-5", "settings have no dashes, set optimizer.lr"),
    ],
)
def test_dashes_are_explained(argument, advice):
    with pytest.raises(UserError) as error:
        ordered(argument.split())
    assert advice in str(error.value)


def test_an_agent_of_a_wandb_sweep_needs_another_command(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "x")
    with pytest.raises(UserError, match=r"in the command of a wandb sweep, use \$\{args_no_hyphens\}"):
        ordered(["--loss.beta=0.2"])


def test_a_flag_has_no_value():
    with pytest.raises(UserError, match="--multirun=true: this flag has no value, write --multirun"):
        ordered(["--multirun=true"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("ckpt_path=outputs/epoch=0-step=2.ckpt", "outputs/epoch=0-step=2.ckpt"),
        ("data.path=Überprüfung/a.jsonl", "Überprüfung/a.jsonl"),
        ("data.path=a{b}.jsonl", "a{b}.jsonl"),
        ("data.path=it's.jsonl", "it's.jsonl"),
        ("optimizer.lr=${oc.decode:${oc.env:LR}}", "${oc.decode:${oc.env:LR}}"),
    ],
)
def test_a_value_that_hydra_cannot_parse_is_quoted_in_the_advice(override, value):
    with pytest.raises(OverrideParseException) as error:
        OverridesParser.create().parse_overrides([override])
    text = explain_override(error.value, [override])
    (advised,) = shlex.split(text.rpartition("for the shell: ")[2])
    (parsed,) = OverridesParser.create().parse_overrides([advised])
    assert parsed.value() == value
