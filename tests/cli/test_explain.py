from contextlib import nullcontext

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from lightning_dpo.cli.checked import CheckedConfig
from lightning_dpo.cli.config import CONFIG_DIR, register_folders, register_resolvers
from lightning_dpo.cli.explain import explain
from lightning_dpo.errors import UserError
from lightning_dpo.train import KEYS
from tests.support.compose import composed

SENTENCES = {
    ("train", "loss.bta=1"): "loss.bta is not a key of the config; did you mean loss.beta?",
    ("train", "speed=1"): "speed is not a key of the config; did you mean seed?",
    ("train", "data.rows.subset=x"): (
        "data.rows.subset is not a key of the config; data.rows has pairs, val_pairs, seed"
    ),
    ("train", "model.max_length=256"): "model.max_length is not a key of the config: did you mean data.max_length?",
    ("train", "beta=0.2"): "beta is not a key of the config: did you mean loss.beta?",
    ("train", "learning_rate=1e-5"): "learning_rate is not a key of the config: set optimizer.lr",
    (
        "train",
        "trainer.num_train_epochs=2",
    ): "trainer.num_train_epochs is not a key of the config: set trainer.max_epochs",
    ("train", "trainer.accumulate_grad_batches=2"): (
        "trainer.accumulate_grad_batches is not a key of the config: it is derived from data.pairs_per_step"
    ),
    ("train", "data.path=pairs.jsonl"): (
        "data.path is not a key of the chosen data: it belongs to data=helpsteer3, data=hh, data=hub, ..."
    ),
    ("train", "adapter.r=8"): "adapter.r is not a key of the chosen adapter: it belongs to adapter=lora",
    ("train", "trainer.profiler=simple"): "trainer.profiler is not a key of the config; trainer has",
    ("train", "model=mistral"): "model=mistral is not an option; there are gpt2, llama",
    ("train", "model=lama"): "model=lama is not an option; did you mean llama? There are gpt2, llama",
    ("train", "loss=zzz"): "loss=zzz is not an option; there are alpha_divergence, aot, ",
    ("evaluate", "reference=none"): "reference is not a group of this command: set its keys, reference.name",
}


@pytest.mark.parametrize(("config_name", "override"), SENTENCES)
def test_an_error_of_hydra_becomes_one_sentence(config_name, override):
    register_folders()
    register_resolvers()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"), pytest.raises(HydraException) as error:
        compose(config_name, [override])
    assert explain(error.value, [override], config_name).startswith(SENTENCES[config_name, override])


def test_the_user_error_among_the_causes_is_the_explanation():
    error = HydraException("wrapping")
    error.__cause__ = UserError("the sentence")
    assert explain(error, []) == "the sentence"


@pytest.mark.parametrize(
    ("key", "advised"),
    [
        ("trainer.profiler", True),
        ("data.rows.subset", False),
        ("data.foo", False),
        ("profile", True),
        ("speed", False),
    ],
)
def test_only_a_key_that_is_accepted_is_advised(tmp_path, key, advised):
    register_folders()
    register_resolvers()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"), pytest.raises(HydraException) as error:
        compose("train", [f"{key}=drop"])
    assert (f"use +{key}=" in explain(error.value, [], "train")) is advised
    values = {"profile": "true"}
    config = composed(tmp_path, f"+{key}={values.get(key, 'drop')}")
    with nullcontext() if advised else pytest.raises(UserError):
        CheckedConfig(config, KEYS)
