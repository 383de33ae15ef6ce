"""The model that `evaluate` evaluates, and its reference."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from peft import PeftConfig

from lightning_dpo.checkpoints.reading import check_format, entry_of, opened
from lightning_dpo.cli.arguments import checked_value
from lightning_dpo.cli.checked import CheckedConfig, call
from lightning_dpo.data.datamodule import PreferenceDataModule
from lightning_dpo.errors import UserError
from lightning_dpo.losses import PreferenceLossFunction
from lightning_dpo.models.adapter import NoAdapter
from lightning_dpo.models.adapter_kinds import config_keeps_base
from lightning_dpo.models.causal_lm import CausalLM
from lightning_dpo.models.digests import weights_digest
from lightning_dpo.models.facts import STARTING_WEIGHTS
from lightning_dpo.models.preparation import check_fits
from lightning_dpo.models.reference_factories import (
    AdapterOff,
    AnotherModel,
    Auto,
    Frozen,
    LogProbOnly,
    ReferenceFactory,
)
from lightning_dpo.module import DPOModule
from lightning_dpo.runs.exports import RECORD, data_settings
from lightning_dpo.runs.settings_files import task_overrides
from lightning_dpo.training.start_checks import check_columns, check_declared

log = logging.getLogger(__name__)


def as_trained(config: DictConfig) -> DictConfig:
    """`config` with the loss that an export was trained with, unless the command line sets one or it has no rewards."""
    named = [override for override in task_overrides() if override.lstrip("+~").startswith("loss")]
    about = record_of(config)
    if named or not about or about["loss"] is None:
        return config
    if not CheckedConfig(OmegaConf.create({"loss": about["loss"]}), {"loss"}).build("loss").has_rewards:
        return config
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.loss = about["loss"]
    log.info("Rewards are computed with the loss of the training: %s.", about["loss"])
    return config


def record_of(config: DictConfig) -> dict[str, Any] | None:
    """The record in the folder of an export, if the model is one.

    The file may come from somebody else. It is data and not a config: its loss is checked like the one of a config, and
    interpolations, which could read the environment, are not resolved.

    Raises:
        UserError: It is not a record of this version.
    """
    path = Path(OmegaConf.select(config, "model.name") or "", RECORD)
    if config.ckpt_path is not None or not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    try:
        about = json.loads(text)
        check_format(about.get("format"), path)
        known = (
            isinstance(about["loss"], dict | None) and about["data"].keys() and about["trained_with"]["weights"].keys()
        )
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        known = False
    if not known or "${" in text:
        raise UserError(f"{path} is not the record of an export: export the model again, or delete this file")
    return about


def warn_of_trained_pairs(config: DictConfig) -> None:
    """Warn if an export was trained on the same file with another split: it may have been trained on these pairs."""
    trained, now = (record_of(config) or {}).get("data", {}), data_settings(config)
    if trained and now["val_path"] and now["val_path"] == trained["path"]:
        log.warning("The model was trained on pairs in data.val_path.")
    if not trained or now["val_path"] or trained["path"] != now["path"]:
        return
    changed = [
        f"data.{name} was {trained[name]} and is {value}" for name, value in now.items() if trained[name] != value
    ]
    if changed:
        log.warning("The model may have been trained on some of these pairs: %s.", ", ".join(changed))


def check_reference(config: DictConfig, module: DPOModule) -> None:
    """Check that the base model of an export still has the weights that the training started from.

    Raises:
        UserError: It has others, so the rewards would be relative to another reference.
    """
    about = record_of(config)
    if about is None or config.reference.name is not None or module.reference is None:
        return
    trained, model = about["trained_with"], module.reference.model or module.policy
    if trained.get("model", {}).get("model.dtype") != str(model.dtype):  # the digest depends on it
        return
    facts = module.identity.facts["weights"] if module.reference.model is None else {}
    now = facts.get(STARTING_WEIGHTS) or weights_digest(model)
    if (was := trained["weights"].get(STARTING_WEIGHTS)) != now:
        raise UserError(
            f"reference: the weights of {about['base_model']} are not those that the training started from (sha256 "
            f"{was}, now {now}): set reference.name to that model"
        )


def make_module(
    config: DictConfig, checked: CheckedConfig, model: CausalLM, data: PreferenceDataModule
) -> tuple[DPOModule, str | None]:
    """The module and, if policy and reference are the same model, the reason why all pairs will be ties.

    Raises:
        UserError: The checkpoint does not exist or has another model, or the reference is unknown.
    """
    loss, adapter = checked.build("loss"), checked.build("adapter")
    check_declared(loss)
    check_columns(loss, data.columns)
    if not loss.has_rewards:
        raise UserError(f"loss: {loss!r} has no rewards to evaluate; choose another loss, such as loss=dpo")
    if isinstance(adapter, NoAdapter):
        adapter = None
    elif config.ckpt_path is None:
        raise UserError("adapter has no effect without ckpt_path: for an exported adapter, set only model.name")
    saved = None if config.ckpt_path is None else opened(config.ckpt_path)
    reference, why_ties = make_reference(config, model, loss)
    module = DPOModule(model, loss, reference, adapter)
    module.configure_model()
    check_reference(config, module)
    check_fits(module.policy, data.tokenizer, data.max_length)
    if saved is not None:
        entry = entry_of(saved)
        trained_with = entry["trained_with"]["loss"]["loss"]
        if entry["has_rewards"] and trained_with != repr(loss):
            raise UserError(f"ckpt_path: it was trained with {trained_with}: set loss to the same values")
        module.on_load_checkpoint(saved)
        if module.reference is not None and config.reference.name is None:  # it is the base model
            module.identity.opens(entry["trained_with"])
        module.load_state_dict(saved["state_dict"])
    return module, why_ties


def make_reference(
    config: DictConfig, model: CausalLM, loss: PreferenceLossFunction
) -> tuple[ReferenceFactory, str | None]:
    """The reference: `reference.name`, or the model before training; none for a loss that does not need one."""
    name, about = config.reference.name, record_of(config)
    if not loss.needs_reference:
        if name is not None:
            raise UserError(f"reference.name={name} has no effect: {loss!r} does not read a reference")
        check_no_cache(config, f"{loss!r} does not read a reference")
        return Auto(), None
    if name == "none":
        check_no_cache(config, "reference.name=none")
        return LogProbOnly(), None
    cache = _cache_options(config)
    if name is None and config.ckpt_path is not None:
        return call("reference", Auto, **cache), None
    if name is None and about is not None:
        name = about["base_model"]
        if name is None:
            raise UserError(
                f"reference.name: {model.name} was trained from a model that was created in code; set "
                "ckpt_path=RUN/checkpoints/last.ckpt with the run's model and data, or reference.name=none"
            )
    base = model.base() if hasattr(model, "base") else None
    # The base model of an export, in the form in which it was trained with.
    quantization = about.get("quantization") if about is not None and config.reference.name is None else None
    if base is not None and base != model.name and name in (None, base):
        if quantization != model.quantization:
            raise UserError(
                f"{model.name} was trained with model.quantization={quantization or 'null'}: set it here, too"
            )
        if config_keeps_base(PeftConfig.from_pretrained(model.name)):
            return call("reference", AdapterOff, **cache), None
        return call("reference", AnotherModel, base, quantization=quantization, **cache), None
    own = OmegaConf.select(config, "model.name")
    if name is None or name == own:
        return call("reference", Frozen, **cache), (
            f"policy and reference are the same model, {own or 'that of the config'}, so every reward is 0; set "
            "reference.name to another model, or reference.name=none to evaluate log-probs without a reference"
        )
    return call("reference", AnotherModel, name, quantization=quantization, **cache), None


_CACHE: dict[str, Any] = {"cache": Literal["auto", "off"], "cache_dir": str | None}


def _cache_options(config: DictConfig) -> dict[str, Any]:
    """The options of the cache of reference log-probs."""
    if unknown := set(config.reference) - {"name", *_CACHE}:
        raise UserError(f"reference.{min(unknown)} is not an option of evaluate: name, {', '.join(_CACHE)}")
    return {
        name: checked_value(f"reference.{name}", config.reference[name], kind, interpolated=False)
        for name, kind in _CACHE.items()
    }


def check_no_cache(config: DictConfig, why: str) -> None:
    """Check that no option of the cache is set, because no log-probs are cached.

    Raises:
        UserError: One is; the message contains `why`.
    """
    defaults = {"cache": "auto", "cache_dir": None}
    for name, value in _cache_options(config).items():
        if value != defaults[name]:
            raise UserError(f"reference.{name}={value} has no effect: {why}")
