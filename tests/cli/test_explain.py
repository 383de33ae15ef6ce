import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from lightning_dpo.cli.config import CONFIG_DIR, register_folders, register_resolvers
from lightning_dpo.cli.explain import explain
from lightning_dpo.errors import UserError

SENTENCES = {
    ("train", "loss.bta=1"): "loss.bta is not a key of the config; did you mean beta?; loss has beta, label_smoothing",
    ("train", "speed=1"): "speed is not a key of the config; did you mean seed?; the config has model, ",
    ("train", "data.rows.subset=x"): (
        "data.rows.subset is not a key of the config; data.rows has pairs, val_pairs, seed"
    ),
    ("train", "model=lama"): "model=lama is not an option; did you mean llama?; there are gpt2, llama",
    ("train", "loss=zzz"): "loss=zzz is not an option; there are dpo, hinge",
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
