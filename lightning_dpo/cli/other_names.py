"""Names of settings in other trainers, and the settings of this one that replace them."""

from collections.abc import Collection

from lightning_dpo.training.trainer_settings import DERIVED

# Arguments of TRL's and transformers' trainers that have another name here. Others are found by their last part, as
# `max_length` is in `data.max_length`.
_INSTEAD = {
    "learning_rate": "optimizer.lr",
    "per_device_train_batch_size": "data.batch_size (per forward pass) and data.pairs_per_step (per optimizer step)",
    "per_device_eval_batch_size": "data.batch_size",
    "train_batch_size": "data.pairs_per_step",
    "gradient_accumulation_steps": "data.pairs_per_step, from which the accumulation is derived",
    "num_train_epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "max_prompt_length": "data.max_length, of prompt and answer together",
    "max_completion_length": "data.max_length, of prompt and answer together",
    "truncation_mode": "data.on_overlong",
    "loss_type": "loss=dpo, loss=ipo, ...; lightning_dpo/losses/README.md lists TRL's names",
    "loss_weights": "loss=rpo loss.weight=..., or loss=mpo loss.loss.weights=...",
    "label_smoothing": "loss.label_smoothing",
    "ld_alpha": "loss=ld_dpo loss.alpha=...",
    "rpo_alpha": "loss=rpo loss.weight=...",
    "simpo_gamma": "loss=simpo loss.gamma=...",
    "cpo_alpha": "loss=cpo loss.alpha=...",
    "f_divergence_type": "loss=forward_kl, loss=jensen_shannon or loss=alpha_divergence",
    "f_alpha_divergence_coef": "loss=alpha_divergence loss.alpha=..., which is 1 minus TRL's coefficient",
    "lr_scheduler_type": "scheduler=transformers scheduler.name=..., or scheduler=warmup_cosine",
    "lr_scheduler_kwargs": "scheduler=transformers scheduler.options={...}",
    "warmup_ratio": "scheduler.warmup_steps, in optimizer steps",
    "max_grad_norm": "trainer.gradient_clip_val",
    "optim": "optimizer=adamw or optimizer=rmsprop",
    "bf16": "trainer.precision=bf16-mixed",
    "fp16": "trainer.precision=16-mixed",
    "torch_dtype": "model.dtype",
    "output_dir": "run_name, or hydra.run.dir for the whole path",
    "logging_steps": "trainer.log_every_n_steps",
    "eval_steps": "trainer.val_check_steps",
    "eval_strategy": "trainer.val_check_steps",
    "save_steps": "callbacks.last.every_n_steps",
    "save_strategy": "callbacks.last.every_n_steps",
    "save_total_limit": "callbacks.last.keep",
    "resume_from_checkpoint": "ckpt_path=last",
    "report_to": "logger=wandb, tensorboard, mlflow, csv or none",
    "model_name_or_path": "model=llama model.name=... (or another option of model)",
    "ref_model": "reference=model reference.name=...",
    "ref_model_name_or_path": "reference=model reference.name=...",
    "reference_free": "reference=none, for a loss that needs no reference",
    "dataset_name": "data=hub data.name=..., or data=hh, ..., as listed by --help",
    "dataset_num_proc": "nothing: it is chosen automatically",
    "dataloader_num_workers": "data.num_workers",
    "use_peft": "adapter=lora",
    "lora_r": "adapter=lora adapter.r=...",
    "lora_alpha": "adapter=lora adapter.alpha=...",
    "lora_dropout": "adapter=lora adapter.dropout=...",
    "lora_target_modules": "adapter=lora adapter.target_modules=...",
    "load_in_4bit": "model.quantization=nf4",
    "load_in_8bit": "model.quantization=int8",
    "attn_implementation": "model.attention",
    "padding_free": "data.layout=shared",
    "deepspeed": "strategy=fsdp",
    "fsdp": "strategy=fsdp",
    "wandb_project": "logger.wandb.project, or the environment variable WANDB_PROJECT",
    "gpus": "trainer.devices",
}


def instead_of(key: str, known: Collection[str]) -> str | None:
    """What to set instead of `key`, as the rest of a sentence about it; None if nothing is known.

    >>> instead_of("beta", ["loss.beta"])
    'did you mean loss.beta?'

    Args:
        key: An unknown key.
        known: All keys of the config.
    """
    parent, _, name = key.rpartition(".")
    if parent == "trainer" and name in DERIVED:
        return f"it {DERIVED[name]}"
    if name in _INSTEAD and parent in ("", "trainer", "data", "model", "optimizer"):
        return f"set {_INSTEAD[name]}"
    same = [one for one in known if one.rpartition(".")[2] == name and not parent and one != key]
    # Defaults of other groups, and callbacks that repeat a setting.
    same = [one for one in same if not one.startswith(("suggested.", "callbacks."))] or same
    return f"did you mean {' or '.join(same[:3])}?" if same else None
