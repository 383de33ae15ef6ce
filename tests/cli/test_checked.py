import re

import pytest
from omegaconf import OmegaConf

from lightning_dpo import evaluate, inspect_data
from lightning_dpo.cli import targets
from lightning_dpo.cli.checked import CheckedConfig
from lightning_dpo.cli.config import CONFIG_DIR
from lightning_dpo.cli.targets import check_trust
from lightning_dpo.errors import UserError
from lightning_dpo.settings import flat
from lightning_dpo.train import KEYS
from tests.support.compose import NAMED, composed

NOT_GROUPS = ("hydra", "__pycache__")
GROUPS = sorted(folder.name for folder in CONFIG_DIR.iterdir() if folder.is_dir() and folder.name not in NOT_GROUPS)
OPTIONS = [(group, file.stem) for group in GROUPS for file in sorted((CONFIG_DIR / group).glob("*.yaml"))]
SWEEPS = [("sweep", name) for name in ("beta", "learning_rate", "loss", "seed")]
# Options that need a value which only the user has.
NEEDED = {
    ("reference", "model"): ["reference.name=somewhere"],
    ("data", "jsonl"): ["data.path=pairs.jsonl"],
    ("data", "hub"): ["data.name=org/dataset"],
    ("data", "mixture"): ["data.sources={hh: 1, jsonl: 0.5}", "data.path={jsonl: pairs.jsonl}"],
}


@pytest.mark.parametrize(("group", "option"), OPTIONS + NAMED + SWEEPS)
def test_every_yaml_composes_and_binds(tmp_path, group, option):
    config = composed(tmp_path, f"{group}={option}", *NEEDED.get((group, option), []))
    assert CheckedConfig(config, KEYS).values.keys() <= KEYS


@pytest.mark.parametrize(("command", "keys"), [("evaluate", evaluate.KEYS), ("inspect_data", inspect_data.KEYS)])
def test_the_configs_of_the_other_commands_do_so_too(tmp_path, command, keys):
    config = composed(tmp_path, "model=llama", "data=hh", config_name=command)
    CheckedConfig(config, keys)
    assert {str(key) for key in config} <= keys


REFUSED = [
    "os.system", "builtins.open", "builtins.eval", "torch.hub.load", "torch.load", "numpy.load", "pandas.read_pickle",
    "shutil.copy", "os.makedirs", "os.symlink", "pathlib.Path.write_text", "importlib.import_module", "subprocess.run",
    "transformers.dynamic_module_utils.get_class_in_module", "sympy.sympify", "pip.main", "pickle.load",
    "torch.distributed.run.main", "multiprocessing.Process", "torch.serialization.add_safe_globals", "hydra.utils.call",
    "lightning_dpo.models.causal_lm.torch.hub.load", "lightning_dpo.cli.config.os.system", "lightning_dpo.models.Path",
    "lightning_dpo.models.AutoModelForCausalLM", "lightning.pytorch.callbacks.LambdaCallback", "mypackage.Loss",
]  # fmt: skip


@pytest.mark.parametrize("target", REFUSED)
def test_only_listed_targets_may_be_named(tmp_path, target):
    config = composed(tmp_path, f"+callbacks.evil={{_target_: {target}}}")
    with pytest.raises(UserError, match=r"callbacks\.evil.*(not allowed|cannot be imported)"):
        CheckedConfig(config, KEYS)


def test_a_target_that_an_interpolation_names_is_seen(tmp_path):
    config = composed(tmp_path, "+suggested.name=os.system", "+callbacks.evil={_target_: '${suggested.name}'}")
    with pytest.raises(UserError, match=r"callbacks\.evil\._target_=os\.system is not allowed"):
        CheckedConfig(config, KEYS)


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("loss", "lightning_dpo.models.causal_lm.load_tokenizer"),
        ("loss", "lightning_dpo.models.CausalLM"),
        ("callbacks.x", "lightning_dpo.losses.DPO"),
        ("logger.x", "lightning_dpo.train.main"),
        ("optimizer", "lightning_dpo.cli.config.call"),
        ("suggested.x", "lightning_dpo.losses.DPO"),
        ("data.source", "lightning_dpo.data.datamodule.load_tokenizer"),
        ("reference", "lightning_dpo.models.CausalLM"),
        ("loss", "[os.system]"),
    ],
)
def test_a_key_takes_only_what_belongs_there(tmp_path, key, target):
    config = composed(tmp_path, f"++{key}={{_target_: {target}}}")
    with pytest.raises(UserError, match=rf"{re.escape(key)}\._target_=.* is not allowed"):
        CheckedConfig(config, KEYS)


def test_code_of_a_model_is_trusted_by_the_command_line_only(tmp_path):
    settings = OmegaConf.to_container(composed(tmp_path, "model=llama", "model.trust_remote_code=true").model)
    check_trust({"model": settings}, ["model=llama", "model.trust_remote_code=True"])
    for override in ("model=llama", "model.trust_remote_code=${suggested.x}", "reference.trust_remote_code=true"):
        with pytest.raises(UserError, match=r"model\.trust_remote_code=True is set in a file"):
            check_trust({"model": settings}, [override])


def test_ones_own_package_is_allowed_by_the_environment_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "mylosses.py").write_text("from lightning_dpo.losses import DPO\nclass Mine(DPO): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = composed(tmp_path, "loss._target_=mylosses.Mine")
    with pytest.raises(UserError, match=r"loss\._target_=mylosses\.Mine is not allowed"):
        CheckedConfig(config, KEYS)
    monkeypatch.setattr(targets, "OWN_PACKAGES", ("mylosses.",))
    with caplog.at_level("INFO"):
        CheckedConfig(config, KEYS)
    assert "mylosses.Mine is allowed by LIGHTNING_DPO_TARGETS" in caplog.text
    assert type(CheckedConfig(config, KEYS).build("loss")).__name__ == "Mine"
    with pytest.raises(UserError, match="not allowed"):
        CheckedConfig(composed(tmp_path, "loss._target_=mylosses2.Mine"), KEYS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+loss.bta=1", r"loss\.bta: lightning_dpo\.losses\.DPO has no argument 'bta'; did you mean loss\.beta\?"),
        ("loss.beta=abc", r"loss\.beta=abc: Input should be a valid number"),
        ("loss.beta='0.1'", r"loss\.beta='0\.1' is text and should be a number"),
        ("+trainer.max_epoch=1", r"trainer\.max_epoch: .* did you mean trainer\.max_epochs\?"),
        ("trainer.max_epochs=many", r"trainer\.max_epochs=many: Input should be a valid integer"),
        (
            "+optimizer.learning_rate=1",
            r"optimizer\.learning_rate: torch\.optim\.AdamW has no argument 'learning_rate'",
        ),
        ("+data.rows.pair=1", r"data\.rows\.pair: .* did you mean data\.rows\.pairs\?"),
        ("data.batch_size=8.0", r"data\.batch_size=8\.0 should be an integer: 8"),
        ("data.batch_size=true", r"data\.batch_size=True should be a number"),
        ("~scheduler", r"scheduler is missing: choose an option with scheduler="),
        ("loss._target_=lightning_dpo.losses.dpo", r"not allowed: it is not a public class or function"),
        ("+speed=1", r"speed is not a key of this command"),
        ("reference=model", r"^reference\.name has no default: set it"),
        ("data=hub", r"^data\.name has no default: set it"),
        ("~callbacks.last.folder", r"callbacks\.last\.folder: this argument of .* is required"),
    ],
)
def test_what_nothing_would_read_is_rejected(tmp_path, override, message):
    config = composed(tmp_path, override)
    with pytest.raises(UserError, match=message):
        CheckedConfig(config, KEYS)


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("loss.beta=-1", "loss", "loss: beta must be a positive number, got -1"),
        ("loss.label_smoothing=0.7", "loss", r"loss: label_smoothing must be in \[0, 0.5\), got 0.7"),
        ("callbacks.last.every_n_steps=0", "callbacks", r"callbacks\.last: every_n_steps must be at least 1, got 0"),
    ],
)
def test_a_value_that_a_constructor_rejects_is_named_by_its_key(tmp_path, override, key, message):
    with pytest.raises(UserError, match=message):
        CheckedConfig(composed(tmp_path, override), KEYS).build(key)


def test_built_objects_hold_plain_values(tmp_path):
    model = CheckedConfig(composed(tmp_path, "model=llama"), KEYS).build("model")
    assert type(model.config) is dict
    optimizer = CheckedConfig(composed(tmp_path), KEYS).build("optimizer")
    assert optimizer.keywords["betas"] == [0.9, 0.999]


def test_the_default_run_takes_what_the_reviews_suggest_and_real_data_does_not(tmp_path):
    reviews, hh = composed(tmp_path), composed(tmp_path, "model=llama", "data=hh")
    assert (reviews.loss.beta, reviews.optimizer.lr, reviews.trainer.max_epochs) == (0.5, 5e-4, 4)
    assert (hh.loss.beta, hh.optimizer.lr, hh.trainer.max_epochs) == (0.1, 1e-6, 1)
    assert "closed_form" not in hh.callbacks
    assert OmegaConf.to_container(composed(tmp_path, "loss.beta=0.3").loss)["beta"] == 0.3


def test_what_ones_own_package_does_not_define_is_rejected(tmp_path, monkeypatch):
    """A constant, a name that it imports; and a package whose name begins like ours is as good as any."""
    (tmp_path / "lightning_dpo_plug.py").write_text(
        "import os\nfrom lightning_dpo.losses import DPO\nLIMIT = 5\nclass Mine(DPO): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(targets, "OWN_PACKAGES", ("lightning_dpo_plug.",))
    for name in ("LIMIT", "DPO", "os.system"):
        with pytest.raises(UserError, match=r"not allowed|cannot be imported"):
            CheckedConfig(composed(tmp_path, f"loss._target_=lightning_dpo_plug.{name}"), KEYS).build("loss")
    assert (
        type(CheckedConfig(composed(tmp_path, "loss._target_=lightning_dpo_plug.Mine"), KEYS).build("loss")).__name__
        == "Mine"
    )


@pytest.mark.parametrize("target", ["lightning_dpo.models.adapter.LoRA", "lightning_dpo.adapter.LoRA"])
def test_a_target_is_a_public_name_of_a_folder(tmp_path, target):
    """A file below it may move, and names of earlier versions are refused in one sentence."""
    with pytest.raises(UserError, match=rf"adapter\._target_={target} is not allowed"):
        CheckedConfig(composed(tmp_path, "adapter=lora", f"adapter._target_={target}"), KEYS)


def test_a_hub_dataset_may_be_read_from_a_file(tmp_path):
    overrides = ["data=hub", "data.name=org/name", "data.path=rows.jsonl"]
    checked = CheckedConfig(composed(tmp_path, *overrides), KEYS, overrides)
    assert checked.values["data"]["path"] == "rows.jsonl"


BASE = ["model=llama", "data=hh", "data.path=hh.jsonl", "data.val_path=val.jsonl", "data.on_invalid=error"]
WITHOUT_EFFECT = [
    ("model.config.hidden_size=64", "set model.pretrained=false"),
    ("data.val_fraction=0.1", "data.val_path contains the validation pairs"),
    ("data.rows.folder=harmless-base", "data.path is read instead"),
    ("data.max_invalid_fraction=0.5", "set data.on_invalid=drop"),
]


@pytest.mark.parametrize(("override", "reason"), WITHOUT_EFFECT)
def test_an_override_without_effect_is_rejected(tmp_path, override, reason):
    overrides = [*BASE, override]
    with pytest.raises(UserError, match=rf"{override.partition('=')[0]} has no effect: .*{reason}"):
        CheckedConfig(composed(tmp_path, *overrides), KEYS, overrides)


@pytest.mark.parametrize(("override", "_"), WITHOUT_EFFECT)
def test_the_same_override_is_accepted_where_it_has_an_effect(tmp_path, override, _):
    path = [] if "folder" in override else ["data.path=hh.jsonl"]
    overrides = ["model=llama", "data=hh", "model.pretrained=false", *path, override]
    values = flat(CheckedConfig(composed(tmp_path, *overrides), KEYS, overrides).values)
    key, _, value = override.partition("=")
    assert str(values[key]) == value


def test_a_data_set_with_a_validation_split_needs_no_fraction(tmp_path):
    overrides = ["model=llama", "data=hh", "data.val_fraction=0.1"]
    with pytest.raises(UserError, match="the dataset has its own validation split"):
        CheckedConfig(composed(tmp_path, *overrides), KEYS, overrides)
    overrides.append("data.rows.validation=null")
    CheckedConfig(composed(tmp_path, *overrides), KEYS, overrides)


def test_an_argument_that_the_program_adds_may_not_be_set_to_another_value(tmp_path):
    checked = CheckedConfig(composed(tmp_path, "+trainer.logger=false"), KEYS)
    with pytest.raises(UserError, match=r"trainer\.logger is derived from the rest of the config: leave it out"):
        checked.build("trainer", logger=[])
    checked = CheckedConfig(composed(tmp_path, "trainer.precision=bf16-true"), KEYS)
    assert checked.build("trainer", precision="bf16-true").precision == "bf16-true"
