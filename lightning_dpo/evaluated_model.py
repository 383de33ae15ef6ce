"""Which model `evaluate` judges, and what it compares it with."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lightning_dpo.adapter import NoAdapter
from lightning_dpo.config import build, check_names
from lightning_dpo.errors import UserError
from lightning_dpo.exports import RECORD
from lightning_dpo.module import DPOModule
from lightning_dpo.policy import CausalLM
from lightning_dpo.reference import AdapterOff, AnotherModel, Auto, Frozen, LogProbAlone, ReferenceFactory

log = logging.getLogger(__name__)


def as_trained(config: DictConfig) -> DictConfig:
    """With the loss that an export was trained by, unless the command line names one or that one has no rewards."""
    config = config.copy()
    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    named = [override for override in overrides if override.lstrip("+~").startswith("loss")]
    about = record_of(config)
    if about and not named:
        its_own = OmegaConf.create({"loss": about["loss"]})
        check_names(its_own, {"loss"})
        if build(its_own, "loss").needs_reference:
            OmegaConf.set_struct(config, False)
            config.loss = about["loss"]
            log.info("Rewards with the loss of its training: %s.", about["loss"])
    return config


def record_of(config: DictConfig) -> dict[str, Any] | None:
    """The record in the folder of an export."""
    path = Path(OmegaConf.select(config, "model.name") or "", RECORD)
    return json.loads(path.read_text()) if config.ckpt_path is None and path.is_file() else None


def make_module(config: DictConfig, model: CausalLM) -> tuple[DPOModule, str | None]:
    """Policy and reference; and where they are one model, why every pair will be a tie.

    Raises:
        UserError: The checkpoint is not there, or the reference is not known.
    """
    if config.ckpt_path is not None and not Path(config.ckpt_path).is_file():
        raise UserError(f"ckpt_path={config.ckpt_path}: there is no such file")
    loss, adapter = build(config, "loss"), build(config, "adapter")
    if not loss.needs_reference:
        raise UserError(f"loss: {loss!r} gives no rewards to judge by; choose another, such as loss=dpo")
    reference, why_ties = make_reference(config, model)
    module = DPOModule(model.policy, loss, reference, None if isinstance(adapter, NoAdapter) else adapter)
    module.configure_model()
    if config.ckpt_path is not None:
        saved = torch.load(config.ckpt_path, mmap=True, weights_only=True)
        trained_with = saved.get("trained_with", {}).get("loss", repr(loss))
        if trained_with != repr(loss):
            raise UserError(f"ckpt_path: it was trained with {trained_with}: set loss and loss.beta to that")
        module.on_load_checkpoint(saved)
        module.load_state_dict(saved["state_dict"])
    return module, why_ties


def make_reference(config: DictConfig, model: CausalLM) -> tuple[ReferenceFactory, str | None]:
    """What is compared with: `reference.name`, or what the model was trained from."""
    name, about = config.reference.name, record_of(config)
    if name == "none":
        return LogProbAlone(), None
    if name is None and config.ckpt_path is not None:
        return Auto(), None
    if name is None and about is not None:
        name = about["base_model"]
        if name is None:
            raise UserError(
                f"reference.name: {model.name} was trained from a model that was made in code; give the run's "
                "checkpoint (ckpt_path=RUN/checkpoints/last.ckpt, with its model and data), or reference.name=none"
            )
    base = model.base() if hasattr(model, "base") else None
    if base is not None and base != model.name and name in (None, base):
        return AdapterOff(), None
    own = OmegaConf.select(config, "model.name")
    if name is None or name == own:
        return Frozen(), (
            f"policy and reference are one model, {own or 'that of the config'}, so every reward is 0; compare with "
            "another by reference.name=..., or look at its log-probs alone by reference.name=none"
        )
    return AnotherModel(name), None
