import pytest

from lightning_dpo.cli.unused_overrides import refuse_without_effect
from lightning_dpo.errors import UserError
from tests.support.compose import composed

IDLE = [
    ("model.config.hidden_size=64", "set model.pretrained=false"),
    ("data.val_fraction=0.1", "set one of the two"),
    ("data.source.subset=harmless-base", "data.path names a file"),
    ("data.max_invalid_fraction=0.5", "set data.on_invalid=drop"),
    ("reference=adapter_off", "set adapter=lora"),
]


def test_the_hub_has_its_own_validation_split(tmp_path):
    overrides = ["model=llama", "data=hh", "data.val_fraction=0.1"]
    with pytest.raises(UserError, match="the hub's data set has a validation split of its own"):
        refuse_without_effect(composed(tmp_path, *overrides), overrides)


BASE = ["model=llama", "data=hh", "data.path=hh.jsonl", "data.val_path=val.jsonl", "data.on_invalid=error"]


@pytest.mark.parametrize(("override", "remedy"), IDLE)
def test_an_override_that_nothing_reads_is_refused(tmp_path, override, remedy):
    config = composed(tmp_path, *BASE, override)
    with pytest.raises(UserError, match=rf"{override.partition('=')[0]} would have no effect: .*{remedy}"):
        refuse_without_effect(config, [*BASE, override])


@pytest.mark.parametrize(("override", "_"), IDLE)
def test_where_it_has_an_effect_it_may_be_set(tmp_path, override, _):
    path = [] if "subset" in override else ["data.path=hh.jsonl"]
    overrides = ["model=llama", "adapter=lora", "data=hh", "model.pretrained=false", *path, override]
    refuse_without_effect(composed(tmp_path, *overrides), overrides)
