"""DPOModule: from a batch of preference pairs to a loss, metrics and an optimizer step."""

from collections.abc import Collection
from functools import partial
from typing import Any

from lightning import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.callbacks.monitors import check_monitors
from lightning_dpo.callbacks.reference_scores import ReferenceScores
from lightning_dpo.callbacks.shared_prefix import SharedPrefix
from lightning_dpo.errors import UserError
from lightning_dpo.losses import DPO, PreferenceLossFunction
from lightning_dpo.metrics import preference_metrics
from lightning_dpo.models.adapter import AdapterFactory
from lightning_dpo.models.causal_lm import PolicySource
from lightning_dpo.models.reference_factories import Auto, ReferenceFactory
from lightning_dpo.models.router_loss import RouterLoss
from lightning_dpo.models.sharding import gradient_norm
from lightning_dpo.training.batch_size import choose_batch_size
from lightning_dpo.training.evaluation_module import EvaluationModule
from lightning_dpo.training.memory_estimate import MemoryEstimate, estimate
from lightning_dpo.training.optimization import Optimization
from lightning_dpo.training.optimizers import default_optimizer
from lightning_dpo.training.precision import compute_dtype
from lightning_dpo.training.schedules import Schedule, warmup_constant
from lightning_dpo.training.start_checks import check_columns
from lightning_dpo.training.step_checks import StepChecks
from lightning_dpo.training.step_loss import step_loss
from lightning_dpo.training.trainer_attributes import callbacks_of, datamodule_of
from lightning_dpo.training.trainer_facts import add_layout, start_identity
from lightning_dpo.training.whole_steps import StopBetweenSteps, check_epoch, check_limits, check_strategy


class DPOModule(EvaluationModule):
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
        self.router_loss = RouterLoss()
        self._checks, self._stops = StepChecks(self.loss), StopBetweenSteps()

    def setup(self, stage: str) -> None:
        """Check the Trainer's settings and the data's columns, and reset the state of an earlier `fit`."""
        check_strategy(self.trainer)
        check_columns(self.loss, getattr(datamodule_of(self.trainer), "columns", ()))
        if not any(isinstance(one, SharedPrefix) for one in callbacks_of(self.trainer)):
            raise UserError("configure_callbacks() must include the callbacks of super().configure_callbacks()")
        if stage == "fit":
            check_limits(self.trainer)
            self.optimization.check_length(self.trainer)
            self._checks.new_fit()
            start_identity(self.identity, self.trainer)
            check_monitors(self, callbacks_of(self.trainer))

    def configure_callbacks(self) -> list[Callback]:
        """The callbacks for the layout of batches and the log-probs of the reference, unless the Trainer has them."""
        given = {type(callback) for callback in callbacks_of(self.trainer)}
        return [kind() for kind in (SharedPrefix, ReferenceScores) if kind not in given]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the run has the settings and starting weights of the checkpoint.

        Raises:
            UserError: It does not; the message contains the differences.
        """
        super().on_load_checkpoint(checkpoint)
        self._checks.updated = checkpoint["global_step"] > 0

    def on_train_start(self) -> None:
        """Compare the layout of the batches with the checkpoint, and apply new settings of the optimizer.

        Raises:
            UserError: The layout differs, or an epoch would end within a step.
        """
        check_epoch(self.trainer, resumed=bool(self.identity.saved))
        add_layout(self.identity, self.trainer)
        self.optimization.apply_new_settings(self.trainer, self.identity)

    def training_step(self, batch: PreferenceBatch, batch_idx: int) -> Tensor:
        """The micro-batch's part of the step's loss. The parts sum to `sum(weight * losses) / step_pairs`."""
        self._checks.check_batch(self.trainer, batch)
        with self.router_loss.recording(self.policy):
            logps = self(batch)
        loss_of = partial(step_loss, self.loss, counted=batch.counted, module=self)
        loss = loss_of(logps)
        self._checks.check_loss(self.trainer, batch, self.reference, logps, loss, loss_of)
        self.train_metrics.update(loss, logps, batch.weight, batch.counted)
        share = (batch.weight * loss.losses).sum() / batch.step_pairs + self.router_loss.term(self.policy, batch)
        # Lightning divides the loss by the accumulation and averages gradients over devices. Both are undone here.
        return share * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def on_train_batch_end(self, outputs: object, batch: PreferenceBatch, batch_idx: int) -> None:
        """Let a request to stop, such as that of `max_time`, wait for the end of the optimizer step."""
        self._stops.on_batch_end(self.trainer, batch_idx)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop before an update that is not finite; otherwise log the step."""
        norm = gradient_norm(self.policy)  # before clipping, after gradients are averaged over devices and unscaled
        self._checks.check_update(self.trainer, norm)
        self.untouched = False
        rate = optimizer.param_groups[0]["lr"]
        self.log_dict({"train/grad_norm": norm, "train/lr": rate} | self.router_loss.value(), batch_size=1)
        self._log(self.train_metrics)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer of the trainable parameters and its schedule per optimizer step."""
        choose_batch_size(self.trainer, self.identity, self.estimate_memory)
        return self.optimization.configure(self.policy, self.trainer, self.identity)

    def estimate_memory(self, tokens: int, scored: int) -> MemoryEstimate:
        """The memory of a training step, estimated. The models must be opened.

        Args:
            tokens: Tokens of the largest micro-batch, padding included.
            scored: Scored positions of that micro-batch.
        """
        itemsize = compute_dtype(str(self.trainer.precision)).itemsize
        return estimate(self.policy, self.reference, self.optimization.make_optimizer, tokens, scored, itemsize)
