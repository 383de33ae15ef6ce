"""What tests let several ranks do; top-level functions, which a forked process can find."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule
from transformers import AutoConfig, AutoModelForCausalLM

from lightning_dpo import DPOModule, PreferenceDataModule, UserError
from lightning_dpo.losses import DPO
from lightning_dpo.models.lora import LoRA
from lightning_dpo.models.reference import FrozenModel
from lightning_dpo.models.reference_factories import AnotherModel, Auto, ReferenceFactory, StaticReference
from lightning_dpo.models.sharding import full, shard
from lightning_dpo.shared_prefix.choice import LayoutName
from lightning_dpo.training.strategies import FullySharded
from tests.support.architectures import make
from tests.support.losses import CASES
from tests.support.models import make_llama
from tests.support.pairs import shares_prompts

STRATEGIES = {"ddp": lambda: "ddp", "fsdp": FullySharded, "lightning's default": ModelParallelStrategy}


class Seen(Callback):
    """Which pairs this rank was given, step by step; and a checkpoint after the second."""

    def __init__(self, path: str | None) -> None:
        self.rows: list[list[int]] = []
        self.path = path

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.rows.append(batch.pair_index[batch.counted].tolist())

    def on_train_batch_end(self, trainer, *args) -> None:
        if self.path and trainer.global_step == 2:
            trainer.save_checkpoint(self.path, weights_only=False)


@dataclass(frozen=True)
class OtherWeights(ReferenceFactory):
    """A reference with other weights than the policy, so that log-ratios are not 0."""

    def __call__(self, policy, loss):
        return FrozenModel(make_llama(seed=1), starts_equal=False)


class Breakable(DPOModule):
    """Its loss of one row is infinite, with a gradient that is not."""

    broken_row: int | None = None

    def forward(self, batch):
        logps = super().forward(batch)
        broken = batch.pair_index == (-1 if self.broken_row is None else self.broken_row)
        infinite = torch.where(broken, torch.inf, 0.0)
        return logps.with_tensors([logps.chosen - infinite, *logps.tensors()[1:]]) if broken.any() else logps


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.5)


def gentle_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.02)


def slow_sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-3)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def fit(
    folder: Path,
    pairs: Path,
    tokenizer: Any,
    strategy: str = "auto",
    devices: int = 1,
    batch_size: int = 2,
    accumulate: int = 1,
    tied: bool = False,
    adapter: bool = False,
    checkpointing: bool = False,
    reference: Any = None,
    broken_row: int | None = None,
    optimizer: Any = sgd,
    save_after_two: str | None = None,
    resume: str | None = None,
    validate_between: bool = False,
    layout: LayoutName = "auto",
    architecture: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train the tiny Llama by SGD; the weights at the end as numpy arrays, what this rank saw, and the metrics."""
    # A cache of its own: bitwise, log-probs may depend on the batches in which another test has computed them.
    if isinstance(reference := reference or Auto(), StaticReference):
        reference = replace(reference, cache_dir=str(folder / "reference"))
    module = make_module(tied, adapter, checkpointing, reference, broken_row, optimizer, architecture)
    data = PreferenceDataModule(
        str(pairs), tokenizer=tokenizer, batch_size=batch_size, val_fraction=0.2, layout=layout, max_length=128
    )
    seen = Seen(save_after_two)
    trainer = make_trainer(folder, strategy, devices, accumulate_grad_batches=accumulate, callbacks=[seen], **options)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    if validate_between:
        trainer.validate(module, data, verbose=False)
        trainer.fit_loop.epoch_loop.max_steps += 2
        trainer.fit_loop.max_epochs = 9
        trainer.fit(module, data)
    weights = {name: full(value.detach()).numpy() for name, value in module.policy.named_parameters()}
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    shared = shares_prompts(data)
    return {"weights": weights, "rows": seen.rows, "metrics": metrics, "steps": trainer.global_step, "shared": shared}


def make_module(
    tied: bool = False,
    adapter: bool = False,
    checkpointing: bool = False,
    reference: Any = None,
    broken_row: int | None = None,
    optimizer: Any = sgd,
    architecture: str | None = None,
) -> DPOModule:
    """The same on every rank."""
    policy = make(architecture) if architecture else make_llama(tie_word_embeddings=tied)
    if checkpointing:
        policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    lora = LoRA(r=4, target_modules=["q_proj", "down_proj", "lm_head"]) if adapter else None
    module = Breakable(policy, DPO(0.3), reference, lora, optimizer=optimizer)
    module.broken_row = broken_row
    torch.manual_seed(0)  # an adapter's weights are drawn
    return module


def make_trainer(folder: Path, strategy: str, devices: int, **options: Any) -> lightning.Trainer:
    """A plain Trainer."""
    return lightning.Trainer(
        accelerator="cpu", devices=devices, strategy=STRATEGIES.get(strategy, lambda: strategy)(),
        default_root_dir=folder,
        **{"max_steps": 3, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
           "enable_model_summary": False, "num_sanity_val_steps": 0} | options,
    )  # fmt: skip


def evaluate(folder: Path, pairs: Path, tokenizer: Any, strategy: str, devices: int) -> dict[str, float]:
    """The validation metrics of a policy against another model, over few pairs."""
    other = folder / "other"
    make_llama(1).save_pretrained(other)
    module = DPOModule(make_llama(), DPO(0.3), AnotherModel(str(other)))
    data = PreferenceDataModule(str(pairs), tokenizer=tokenizer, batch_size=2, val_fraction=0.2)
    trainer = make_trainer(folder, strategy, devices)
    trainer.validate(module, data, verbose=False)
    assert len(data.val_pairs) == 5
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def sharded_layers(configs: list[dict[str, Any]], strategy: str = "fsdp") -> list[tuple[str, int, float]]:
    """Of each architecture: its name, its layers that became shards of their own, and how far its logits moved."""
    trainer = make_trainer(Path(), strategy, 2)
    trainer.strategy.connect(DPOModule(make_llama()))
    trainer.strategy.setup_environment()
    found, ids = [], torch.arange(1, 9)[None]
    for settings in configs:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings)).eval()
        with torch.no_grad():
            before = model(ids).logits
            shard(model, trainer.strategy.device_mesh["data_parallel"], "32-true")
            moved = (model(ids).logits - before).abs().max()
        layers = [part for part in model.modules() if isinstance(part, FSDPModule) and part is not model]
        found.append((settings["model_type"], len(layers), float(moved)))
    return found


def without_layers() -> str:
    """What is said of a model that `shard` has no rule for."""
    try:
        shard(torch.nn.Linear(2, 2), None, "32-true")
    except UserError as error:
        return str(error)
    return ""


def fit_every_loss(folder: Path, pairs: Path, tokenizer: Any) -> dict[str, dict[str, Any]]:
    """Two optimizer steps of 8 and 3 pairs with every loss, accumulated where that is possible, and a validation."""
    found = {}
    for name, case in CASES.items():
        accumulate = 1 if case.loss.whole_step else 2
        module = DPOModule(
            make_llama(), case.loss, OtherWeights() if case.loss.needs_reference else None, optimizer=slow_sgd
        )
        data = PreferenceDataModule(
            str(pairs),
            tokenizer=tokenizer,
            batch_size=4 // accumulate,
            val_fraction=0.5,
            layout="shared",
            chosen_only=not case.loss.needs_rejected,
        )
        seen = Seen(None)
        trainer = make_trainer(
            folder, "ddp", 2, accumulate_grad_batches=accumulate, callbacks=[seen], max_steps=-1, max_epochs=1
        )
        trainer.fit(module, data)
        found[name] = {
            "weights": {key: value.detach().numpy() for key, value in module.policy.named_parameters()},
            "rows": seen.rows,
            "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
        }
    return found
