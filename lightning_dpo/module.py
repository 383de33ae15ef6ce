"""DPOModule: a batch of pairs in, a loss, rewards and an optimizer step out."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from lightning_dpo.adapter import AdapterFactory
from lightning_dpo.agreement import check_dealt
from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.checkpoint_checks import TrainedWith, check_tensors
from lightning_dpo.errors import UserError
from lightning_dpo.logps import completion_logps
from lightning_dpo.losses import DPO, PairLogps, PreferenceLoss, PreferenceLossFunction, checked_loss, pair_logps
from lightning_dpo.metrics import preference_metrics
from lightning_dpo.monitors import check_monitors
from lightning_dpo.optimizers import default_optimizer
from lightning_dpo.part_times import REFERENCE
from lightning_dpo.policy import CausalLM, ready_policy
from lightning_dpo.prefix_sharing import share_prefixes
from lightning_dpo.probe import check_opened, probe
from lightning_dpo.reference import Auto, Reference, ReferenceFactory
from lightning_dpo.schedules import Schedule, warmup_constant
from lightning_dpo.sharding import full, shard
from lightning_dpo.step_checks import StepRecord, check_finite, check_start

PROGRESS_BAR = ("train/loss", "train/rewards/accuracies", "train/rewards/margins")


class DPOModule(LightningModule):
    """Trains a policy on preference pairs against a frozen reference.

    Args:
        policy: A hub id or folder, a model, or a function that returns one. Models are opened in `configure_model`.
        loss: What to minimise; None: `DPO(beta=0.1)`.
        reference: What makes the reference of the untrained policy; None: `Auto()`, a frozen copy of it, or the policy
            without its adapter.
        adapter: What of the policy is trained, for example `LoRA(r=16)`; None: whatever is trainable in it.
        optimizer: Of the trainable parameters; in a Hydra config a partial.
        scheduler: `(optimizer, total_steps)` to a learning-rate schedule by optimizer step.
    """

    def __init__(
        self,
        policy: str | PreTrainedModel | Callable[[], PreTrainedModel],
        loss: PreferenceLossFunction | None = None,
        reference: ReferenceFactory | None = None,
        adapter: AdapterFactory | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        scheduler: Schedule = warmup_constant,
    ) -> None:
        super().__init__()
        # The policy becomes a submodule in configure_model, when strategy and device are known.
        self.policy: PreTrainedModel | None = None
        self._untrained_policy = [policy]  # in a list, which hides a ready model from nn.Module until then
        self.loss = loss or DPO()
        self.make_reference = reference or Auto()
        self.make_reference.check(self.loss)
        self.make_adapter = adapter
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.train_metrics = self._metrics("train/")
        self.val_metrics = self._metrics("val/")
        self.source_metrics = nn.ModuleList()
        self._trained_with = TrainedWith(self.loss)
        self._record = StepRecord()
        self._dealt = False
        self.validated_step: int | None = None
        self._hold_reference(None)

    def setup(self, stage: str) -> None:
        """Forget an earlier fit; refuse callbacks that wait for a metric that no part of the run logs."""
        if stage == "fit":
            self._dealt = False
            self._trained_with.resumes({})
            check_monitors(self, self.trainer.callbacks)

    def configure_model(self) -> None:
        """Open the policy and make its reference, once."""
        if self.policy is not None:
            return
        policy = self._untrained_policy.pop()
        if isinstance(policy, str):
            policy = CausalLM(policy).policy()
        elif not isinstance(policy, nn.Module):
            policy = policy()
        policy = ready_policy(policy)
        self._trained_with.starts_from(policy)
        opened = probe(policy) if self.make_adapter or isinstance(policy, PeftModel) else None
        # Afterwards: dropout of an adapter stays.
        self.policy = self.make_adapter(policy).train() if self.make_adapter else policy
        # The frozen weights under an adapter are in no checkpoint; `load_state_dict` checks the others.
        self.strict_loading = not isinstance(self.policy, PeftModel)
        self._hold_reference(self.make_reference(self.policy, self.loss))
        check_opened(opened, self.policy, self.reference)
        self._trained_with.trains(self.policy, self.reference)
        if self.device_mesh is not None:
            for model in filter(None, (self.policy, self.reference and self.reference.model)):
                shard(model, self.device_mesh["data_parallel"], self.trainer.precision)

    def share_prefixes(self, padded: PreferenceBatch, shared: PreferenceBatch) -> str | None:
        """Make policy and reference ready for the shared layout, or say why not: see `prefix_sharing.py`."""
        models = [self.policy, *filter(None, [self.reference and self.reference.model])]
        batches = (batch.to(self.device) for batch in (padded, shared))
        with self.trainer.precision_plugin.forward_context():
            return share_prefixes(models, *batches, self.trainer.precision)

    def forward(self, batch: PreferenceBatch) -> PairLogps:
        """Log-probs of the pairs of `batch` under policy and reference."""
        if self.loss.needs_rejected and not len(batch.rejected):
            raise UserError(f"{self.loss!r} compares two answers: give the data module chosen_only=False")
        with self.trainer.profiler.profile(REFERENCE) if self._trainer else nullcontext():
            reference = self.reference.logps(batch) if self.reference else None
        return pair_logps(completion_logps(self.policy, batch), reference, batch)

    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> Tensor:
        """This micro-batch's share of the step's loss: over a step, they sum to `sum(weight * losses) / step_pairs`."""
        if not self._dealt:
            check_dealt(batch, self.trainer.strategy, self.global_rank)
            self._dealt = True
        logps = self(batch)
        loss = checked_loss(self.loss, logps)
        if self.trainer.global_step == 0 and self.reference and self.reference.starts_equal:
            check_start(self.loss, loss, logps, batch, self.trainer.precision, self._place)
        self._record.add(batch, loss)
        self._update(self.train_metrics, loss, logps, batch)
        share = (batch.weight * loss.losses).sum() / batch.step_pairs
        # Lightning divides by the accumulation, and averages gradients over devices.
        return share * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop before an update that would ruin the weights, else log the step just computed."""
        norm = full(torch.nn.utils.get_total_norm([p.grad for p in self.policy.parameters() if p.grad is not None]))
        # The loss scaler of fp16 meets infinite gradients by skipping the update and scaling less.
        scaled = self.trainer.precision == "16-mixed"
        check_finite(torch.zeros_like(norm) if scaled else norm, self._record, self._place)
        self._record.clear()
        self.log_dict({"train/grad_norm": norm, "train/lr": optimizer.param_groups[0]["lr"]}, batch_size=1)
        self._log(self.train_metrics)

    def on_validation_epoch_start(self) -> None:
        """Forget whatever was counted outside a validation pass; where there are several sources, count each."""
        self.val_metrics.reset()
        sources = getattr(self.trainer.datamodule, "sources", ())
        several = sources if len(sources) > 1 else ()
        self.source_metrics = nn.ModuleList(self._metrics(f"val/{name}/") for name in several).to(self.device)

    def validation_step(self, batch: PreferenceBatch, batch_idx: int) -> dict[str, Any]:
        """Count the pairs of `batch`; what was found out about each goes to callbacks."""
        logps = self(batch)
        loss = checked_loss(self.loss, logps)
        self._update(self.val_metrics, loss, logps, batch)
        for number, metrics in enumerate(self.source_metrics):
            metrics.update(loss, logps, batch.weight, batch.counted & (batch.source == number))
        return {"losses": loss, "logps": logps}

    def on_validation_epoch_end(self) -> None:
        """Log the means over all validation pairs."""
        # Already reduced; Lightning asks for it all the same.
        self._log(self.val_metrics, sync_dist=True)
        for metrics in self.source_metrics:
            if metrics["loss"].compute().isfinite():  # some source may have no validation pairs
                self._log(metrics, sync_dist=True)
        self.validated_step = self.trainer.global_step

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimizer over trainable parameters and its schedule by optimizer step."""
        trained = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        if not trained:
            raise UserError("nothing of the policy is trainable; to train an adapter it has, give adapter=Continue()")
        optimizer = self.make_optimizer(trained)
        # A fused one would unscale fp16 gradients in its step; their norm is looked at before that.
        optimizer._step_supports_amp_scaling = False
        steps = int(self.trainer.estimated_stepping_batches)
        self._trained_with.optimizes_by(optimizer, self.make_scheduler, steps)
        scheduler = self.make_scheduler(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the weights mean and how they are trained: loss, starting weights, adapter, optimizer, schedule."""
        checkpoint |= {"trained_with": dict(self._trained_with.settings), "has_rewards": self.loss.has_rewards}
        if isinstance(self.policy, PeftModel):
            checkpoint["tensors"] = self._trained()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume with other settings, or from other weights, than the checkpoint was trained with."""
        saved = checkpoint.get("trained_with", {})
        # Otherwise, as by load_from_checkpoint, the weights are wanted, whatever loss is used on them.
        fits = self._trainer is not None and self.trainer.state.fn == "fit"
        (self._trained_with.resumes if fits else self._trained_with.opens)(saved)
        # A sharded policy is loaded past `load_state_dict`.
        if "tensors" in checkpoint:
            check_tensors(self._trained(), checkpoint["tensors"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DPOModule":
        """Move or cast the reference along: it is no submodule."""
        super()._apply(fn, recurse)
        if self.reference and self.reference.model:
            self.reference.model._apply(fn, recurse)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What a checkpoint holds: of a policy with an adapter, what is trained."""
        state = super().state_dict(*args, **kwargs)
        return {name: state[name] for name in self._trained()} if isinstance(self.policy, PeftModel) else state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` gave.

        Raises:
            UserError: The checkpoint is of another adapter.
        """
        if not isinstance(self.policy, PeftModel):
            return super().load_state_dict(state_dict, strict, assign)
        check_tensors(self._trained(), state_dict)
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def _trained(self) -> list[str]:
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def _place(self, row: int) -> str:
        """`file:line` of a pair where the data module knows it, else its row."""
        return getattr(self.trainer.datamodule, "place", "row {}".format)(row)

    def _hold_reference(self, reference: Reference | None) -> None:
        object.__setattr__(self, "reference", reference)

    def _metrics(self, prefix: str) -> nn.Module:
        return preference_metrics(prefix, self.loss)

    @staticmethod
    def _update(metrics: nn.Module, loss: PreferenceLoss, logps: PairLogps, batch: PreferenceBatch) -> None:
        metrics.update(loss, logps, batch.weight, batch.counted)

    def _log(self, metrics: nn.Module, sync_dist: bool = False) -> None:
        values = metrics.compute()
        metrics.reset()
        shown = {name: value for name, value in values.items() if name in PROGRESS_BAR}
        self.log_dict(shown, prog_bar=True, batch_size=1, sync_dist=sync_dist)
        self.log_dict(
            {name: value for name, value in values.items() if name not in shown}, batch_size=1, sync_dist=sync_dist
        )
