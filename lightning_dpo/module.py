"""DPOModule: from a batch of preference pairs to a loss, metrics and an optimizer step."""

from collections.abc import Collection
from contextlib import nullcontext

from lightning import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.callbacks.monitors import check_monitors
from lightning_dpo.callbacks.shared_prefix import SharedPrefix
from lightning_dpo.errors import UserError
from lightning_dpo.labels import PROGRESS_BAR
from lightning_dpo.logps.completions import completion_logps
from lightning_dpo.losses import DPO, PairLogps, PreferenceLossFunction, pair_logps
from lightning_dpo.metrics import ValidationOutput, metrics_of_sources, preference_metrics
from lightning_dpo.models.adapter import AdapterFactory
from lightning_dpo.models.causal_lm import PolicySource
from lightning_dpo.models.reference import Auto, ReferenceFactory
from lightning_dpo.models.router_loss import RouterLoss
from lightning_dpo.models.sharding import gradient_norm
from lightning_dpo.training.optimization import Optimization
from lightning_dpo.training.optimizers import default_optimizer
from lightning_dpo.training.policy_module import PolicyModule
from lightning_dpo.training.schedules import Schedule, warmup_constant
from lightning_dpo.training.start_checks import check_columns
from lightning_dpo.training.step_checks import StepChecks, check_weights, checked_loss
from lightning_dpo.training.step_timer import REFERENCE
from lightning_dpo.training.trainer_attributes import callbacks_of, datamodule_of, profiler_of
from lightning_dpo.training.trainer_facts import add_layout, start_identity


class DPOModule(PolicyModule):
    """Trains a policy on preference pairs against a frozen reference.

    Args:
        policy: A hub id or folder, a model, or a function that returns one. Models are opened in `configure_model`.
        loss: The loss; None: `DPO(beta=0.1)`.
        reference: Creates the reference from the untrained policy; None: `Auto()`, which uses the policy without its
            adapter or, without an adapter, a frozen copy.
        adapter: Selects what is trained, for example `LoRA(r=16)`; None: the parameters with `requires_grad`.
        optimizer: Creates the optimizer of the trainable parameters, for example `partial(AdamW, lr=1e-5)`.
        scheduler: Creates the learning-rate schedule: a function of `(optimizer, total_steps)`, per optimizer step.
        resume_allow: Kinds of differences between a run and the checkpoint that it resumes from, such as `data`.

    Attributes:
        policy, reference, loss, identity: See `PolicyModule`. Models are None until `configure_model`.
        optimization: Creates the optimizer and its schedule.
    """

    def __init__(
        self,
        policy: PolicySource,
        loss: PreferenceLossFunction | None = None,
        reference: ReferenceFactory | None = None,
        adapter: AdapterFactory | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        scheduler: Schedule = warmup_constant,
        resume_allow: Collection[str] = (),
    ) -> None:
        super().__init__(policy, loss or DPO(), reference or Auto(), adapter, resume_allow)
        self.optimization = Optimization(optimizer, scheduler)
        self.train_metrics = preference_metrics("train/", self.loss)
        self.val_metrics = preference_metrics("val/", self.loss)
        self.router_loss = RouterLoss()
        self.source_metrics: list[MetricCollection] = []  # not submodules: created again for each validation
        self._checks = StepChecks(self.loss)

    def setup(self, stage: str) -> None:
        """Check the data's columns and the metrics that callbacks monitor, and reset the state of an earlier `fit`."""
        check_columns(self.loss, getattr(datamodule_of(self.trainer), "columns", ()))
        if stage == "fit":
            self._checks.new_fit()
            start_identity(self.identity, self.trainer)
            check_monitors(self, callbacks_of(self.trainer))
        if not any(isinstance(one, SharedPrefix) for one in callbacks_of(self.trainer)):
            raise UserError("configure_callbacks() must include the callbacks of super().configure_callbacks()")

    def configure_callbacks(self) -> list[Callback]:
        """The callback that chooses the layout of batches, unless the Trainer already has it."""
        return [] if any(isinstance(one, SharedPrefix) for one in callbacks_of(self.trainer)) else [SharedPrefix()]

    def forward(self, batch: PreferenceBatch) -> PairLogps:
        """Log-probs of the pairs of `batch` under policy and reference."""
        if self.loss.needs_rejected and not len(batch.rejected):
            raise UserError(f"{self.loss!r} needs rejected completions: create the data module with chosen_only=False")
        # The reference first: its activations are freed before the policy's graph is built.
        with profiler_of(self.trainer).profile(REFERENCE) if self._trainer else nullcontext():
            reference = self.reference.logps(batch) if self.reference else None
        return pair_logps(completion_logps(self.policy, batch), reference, batch)

    def on_train_start(self) -> None:
        """Compare the layout of the batches with the checkpoint, and apply new settings of the optimizer."""
        add_layout(self.identity, self.trainer)
        self.optimization.apply_new_settings(self.trainer, self.identity)

    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> Tensor:
        """The micro-batch's part of the step's loss. The parts sum to `sum(weight * losses) / step_pairs`."""
        self._checks.check_batch(self.trainer, batch)
        with self.router_loss.recording(self.policy):
            logps = self(batch)
        loss = checked_loss(self.loss, logps)
        self._checks.check_loss(self.trainer, batch, self.reference, logps, loss)
        self.train_metrics.update(loss, logps, batch.weight, batch.counted)
        share = (batch.weight * loss.losses).sum() / batch.step_pairs + self.router_loss.term(self.policy, batch)
        # Lightning divides the loss by the accumulation and averages gradients over devices. Both are undone here.
        return share * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop before an update that is not finite; otherwise log the step."""
        norm = gradient_norm(self.policy)  # before clipping, after gradients are averaged over devices and unscaled
        self._checks.check_update(self.trainer, norm)
        rate = optimizer.param_groups[0]["lr"]
        self.log_dict({"train/grad_norm": norm, "train/lr": rate} | self.router_loss.value(), batch_size=1)
        self._log(self.train_metrics)

    def on_validation_epoch_start(self) -> None:
        """Check the weights, and reset the metrics; with several sources, create metrics for each."""
        check_weights(self, self.trainer.global_step)
        self.val_metrics.reset()
        sources = getattr(datamodule_of(self.trainer), "sources", ())
        self.source_metrics = [one.to(self.device) for one in metrics_of_sources(sources, self.loss)]

    def validation_step(self, batch: PreferenceBatch, batch_idx: int) -> ValidationOutput:
        """Add the pairs of `batch` to the `val/*` metrics. A subclass must call it. Callbacks receive the output."""
        logps = self(batch)
        loss = checked_loss(self.loss, logps)
        self.val_metrics.update(loss, logps, batch.weight, batch.counted)
        for index, metrics in enumerate(self.source_metrics):
            metrics.update(loss, logps, batch.weight, batch.counted & (batch.source == index))
        return ValidationOutput(loss=loss, logps=logps)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all validation pairs."""
        # The values are already reduced over devices; without sync_dist, Lightning warns.
        self._log(self.val_metrics, sync_dist=True)
        for metrics in self.source_metrics:
            if metrics["loss"].compute().isfinite():  # NaN for a source without validation pairs
                self._log(metrics, sync_dist=True)
        self.validated_step = self.trainer.global_step

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer of the trainable parameters and its schedule per optimizer step."""
        return self.optimization.configure(self.policy, self.trainer, self.identity)

    def _log(self, metrics: MetricCollection, sync_dist: bool = False) -> None:
        values = metrics.compute()
        metrics.reset()
        for name, value in values.items():
            self.log(name, value, prog_bar=name in PROGRESS_BAR, batch_size=1, sync_dist=sync_dist)
