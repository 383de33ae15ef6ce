"""Overrides that nothing would read in the combination that was chosen."""

from collections.abc import Callable, Sequence

from omegaconf import DictConfig, OmegaConf

from lightning_dpo.errors import UserError


def _is(key: str, value: object) -> Callable[[DictConfig], bool]:
    return lambda config: OmegaConf.select(config, key) == value


def _is_set(key: str) -> Callable[[DictConfig], bool]:
    return lambda config: OmegaConf.select(config, key) is not None


def _from_hub(config: DictConfig) -> bool:
    source = OmegaConf.select(config, "data.source._target_")
    return (
        source not in (None, "lightning_dpo.data.sources.jsonl_pairs") and OmegaConf.select(config, "data.path") is None
    )


def _no_adapter_to_switch_off(config: DictConfig) -> bool:
    return _is("reference._target_", "lightning_dpo.models.AdapterOff")(config) and _is(
        "adapter._target_", "lightning_dpo.models.NoAdapter"
    )(config)


_OF_THE_HUB = "is of the hub's data set, and data.path names a file"

# What is set, when it has no effect, and what would give it one.
_RULES = (
    ("reference", _no_adapter_to_switch_off, "there is no adapter to switch off: set adapter=lora"),
    ("model.config", _is("model.pretrained", True), "weights bring their architecture: set model.pretrained=false"),
    ("data.val_fraction", _is_set("data.val_path"), "data.val_path names the validation pairs: set one of the two"),
    ("data.val_fraction", _from_hub, "the hub's data set has a validation split of its own: leave it out"),
    ("data.source.subset", _is_set("data.path"), f"a subset {_OF_THE_HUB}"),
    ("data.source.questions", _is_set("data.path"), f"a number of questions {_OF_THE_HUB}"),
    ("data.source.validation_every", _is_set("data.path"), f"a split {_OF_THE_HUB}"),
    ("data.max_invalid_fraction", _is("data.on_invalid", "error"), "no row may be invalid: set data.on_invalid=drop"),
)


def refuse_without_effect(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse an override that has no effect.

    Args:
        config: The composed config.
        overrides: What the command line said, `key=value` each.

    Raises:
        UserError: Names the key and what would give it an effect.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        for prefix, idle, remedy in _RULES:
            if (key == prefix or key.startswith(f"{prefix}.")) and idle(config):
                raise UserError(f"{key} would have no effect: {remedy}")
