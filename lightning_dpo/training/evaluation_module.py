"""The part of `DPOModule` that does not train: log-probs, metrics and rewards of pairs."""

from contextlib import nullcontext
from typing import NamedTuple, cast

from torch import Tensor
from torchmetrics import MetricCollection

from lightning_dpo.batch import PreferenceBatch
from lightning_dpo.errors import UserError
from lightning_dpo.labels import PROGRESS_BAR
from lightning_dpo.logps.completions import completion_logps, rounded_to
from lightning_dpo.logps.tolerance import tolerance
from lightning_dpo.losses import PairLogps, PreferenceLoss, pair_logps
from lightning_dpo.metrics import PairMean, ValidationOutput, metrics_of_sources, preference_metrics
from lightning_dpo.training.checked_loss import checked_loss
from lightning_dpo.training.policy_module import PolicyModule
from lightning_dpo.training.step_checks import check_weights
from lightning_dpo.training.step_loss import EvaluatedPairs, step_loss
from lightning_dpo.training.step_timer import REFERENCE
from lightning_dpo.training.trainer_attributes import datamodule_of, profiler_of


class PairRewards(NamedTuple):
    """What `DPOModule.predict_step` returns for the pairs of a batch, on the CPU."""

    pair_index: Tensor
    """Row of the pair in `data.val_pairs`; with a loader of your own, in its batch. Shape: (pairs,), int64."""
    chosen: Tensor
    """Reward of the chosen completion. Shape: (pairs,), float32."""
    rejected: Tensor
    """Reward of the rejected completion. Shape: (pairs,), float32."""


class EvaluationModule(PolicyModule):
    """Log-probs, metrics and rewards of pairs: `validate`, `test` and `predict`.

    Attributes:
        metrics: Metrics of the running validation or test: of all pairs and, with several sources, of each source. Not
            submodules: they are created for each evaluation.
    """

    metrics: list[MetricCollection]
    _held: list[EvaluatedPairs]

    def forward(self, batch: PreferenceBatch) -> PairLogps:
        """Log-probs of the pairs of `batch` under policy and reference."""
        if not isinstance(batch, PreferenceBatch):
            raise UserError(
                f"the loader returns a {type(batch).__name__} and not a PreferenceBatch: use one loader, of "
                "PreferenceDataModule or with PreferenceCollator"
            )
        if self.loss.needs_rejected and not len(batch.rejected):
            raise UserError(f"{self.loss!r} needs rejected completions: create the data module with chosen_only=False")
        # The reference first: its activations are freed before the policy's graph is built.
        with profiler_of(self.trainer).profile(REFERENCE) if self._trainer else nullcontext():
            reference = self.reference.logps(batch, self.loss.needs_tokens) if self.reference else None
        policy = completion_logps(self.policy, batch, self.loss.needs_tokens)
        if reference is not None and batch.reference_logps is not None and self.policy_is_reference:
            # The cache was computed in other batches. Without this, rounding would decide which answer wins.
            precision = str(self.trainer.precision) if self._trainer else "32"
            reference = rounded_to(policy, reference, tolerance(precision, self.policy.dtype))
        return pair_logps(policy, reference, batch)

    def on_validation_epoch_start(self) -> None:
        """Check the weights, and create the metrics."""
        self._start("val/")

    def validation_step(self, batch: PreferenceBatch, batch_idx: int) -> ValidationOutput:
        """Add the pairs of `batch` to the `val/*` metrics. A subclass must call it. Callbacks receive the output.

        Its losses are those of the batch, also for a loss with `whole_step`; `val/loss` is that of all pairs.
        """
        logps = self(batch)
        loss, pairs = checked_loss(self.loss, logps), EvaluatedPairs.of(logps, batch)
        if self.loss.whole_step:
            self._held.append(pairs)
        else:
            self._update(loss, pairs)
        return ValidationOutput(loss=loss, logps=logps)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all validation pairs, and their number."""
        self._end()
        self.validated_step = self.trainer.global_step

    def on_test_epoch_start(self) -> None:
        """Check the weights, and create the metrics."""
        self._start("test/")

    def test_step(self, batch: PreferenceBatch, batch_idx: int) -> ValidationOutput:
        """Add the pairs of `batch` to the `test/*` metrics."""
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of all test pairs, and their number."""
        self._end()

    def on_predict_start(self) -> None:
        """Check that the loss defines rewards.

        Raises:
            UserError: It does not.
        """
        if not (self.loss.has_rewards and self.loss.needs_rejected):
            raise UserError(f"predict() returns rewards, and {self.loss!r} does not define them for both completions")

    def predict_step(self, batch: PreferenceBatch, batch_idx: int) -> PairRewards:
        """The rewards of the pairs of `batch`, without fillers."""
        chosen, rejected = checked_loss(self.loss, self(batch)).rewards
        return PairRewards(*(values[batch.counted].cpu() for values in (batch.pair_index, chosen, rejected)))

    def _start(self, prefix: str) -> None:
        check_weights(self, self.trainer.global_step)
        sources = getattr(datamodule_of(self.trainer), "sources", ())
        metrics = [preference_metrics(prefix, self.loss), *metrics_of_sources(prefix, sources, self.loss)]
        self.metrics = [one.to(self.device) for one in metrics]
        self._held = []

    def _update(self, loss: PreferenceLoss, pairs: EvaluatedPairs) -> None:
        for index, metrics in enumerate(self.metrics):
            counted = pairs.counted & (pairs.source == index - 1) if index else pairs.counted
            metrics.update(loss, pairs.logps, pairs.weight, counted)

    def _end(self) -> None:
        if self._held:
            # The pairs of an evaluation are one step. In batches, `val/loss` would depend on their size.
            pairs = EvaluatedPairs.concatenated(self._held)
            self._update(step_loss(self.loss, pairs.logps, pairs.counted, self), pairs)
        # The values are already reduced over devices; without sync_dist, Lightning warns.
        for metrics in self.metrics:
            loss = cast(PairMean, metrics["loss"])
            count = loss.count.clone()
            if loss.compute().isfinite() or metrics is self.metrics[0]:  # NaN for a source without pairs
                self._log(metrics, sync_dist=True)
                self.log(f"{metrics.prefix}pairs", count, batch_size=1, sync_dist=True, reduce_fx="sum")

    def _log(self, metrics: MetricCollection, sync_dist: bool = False) -> None:
        values = metrics.compute()
        metrics.reset()
        for name, value in values.items():
            self.log(name, value, prog_bar=name in PROGRESS_BAR, batch_size=1, sync_dist=sync_dist)
