"""Warnings about failures of preference optimization that the loss does not show, each once and with advice."""

import logging
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning import Callback, LightningModule, Trainer

from lightning_dpo.callbacks.samples import Samples
from lightning_dpo.errors import UserError
from lightning_dpo.training.trainer_attributes import callbacks_of

if TYPE_CHECKING:
    from lightning_dpo.module import DPOModule

log = logging.getLogger(__name__)

_CHOSEN = "train/logratios/chosen"
_SAMPLES = ("length", "repetition", "ended")
_WARNINGS = {
    "chosen": "the chosen answers are less likely than under the reference, and their log-ratio continues to decrease "
    "({now:.2f} nats, {before:.2f} in the {window} steps before): try a smaller optimizer.lr, a larger loss.beta, or "
    "supervised fine-tuning on the chosen answers first (loss=sft)",
    "kl": "val/kl is {now:.2f} nats, more than callbacks.guard.max_kl={most}: try a larger loss.beta, a smaller "
    "optimizer.lr or fewer epochs; best.ckpt, if it exists, is within the limit",
    "length": "sampled answers have {now:.0f} tokens, those of the reference {start:.0f}: the policy may learn length "
    "instead of quality; compare val/length/chosen with val/length/rejected, and try a larger loss.beta",
    "repetition": "sampled answers repeat themselves ({now:.0%} of their 4-grams, {start:.0%} for the reference): try "
    "a smaller optimizer.lr, a larger loss.beta or fewer epochs",
    "ended": "{now:.0%} of the sampled answers end with an end-of-sequence token, {start:.0%} for the reference: check "
    "whether data.max_length truncates answers, and try a smaller optimizer.lr",
}


class Guards(Callback):
    """Monitors the log-ratio of the chosen answers, and the policy's samples in comparison with the reference's.

    Without a reference, samples are compared with those of the first validation. Each guard warns once.

    Args:
        max_kl: Maximum `val/kl`, in nats per answer; None: no limit.
        max_length_ratio: Maximum ratio of the mean length of the policy's samples to the reference's.
        max_repetition: Maximum increase of `val/samples/repetition` over the reference's.
        max_unended: Maximum decrease of `val/samples/ended` below the reference's.
        max_chosen_drop: Maximum decrease of log π of the chosen answers below log π_ref, in nats. A small decrease is
            normal, even at the optimum: the chosen answer is the better of two, and not necessarily a likely one.
        window: Optimizer steps over which the log-ratio of chosen answers is averaged. The guard warns if the average
            is below `-max_chosen_drop` and decreased in two consecutive windows.
        stop: Stop training when a guard warns.
    """

    def __init__(
        self,
        max_kl: float | None = None,
        max_length_ratio: float = 1.5,
        max_repetition: float = 0.1,
        max_unended: float = 0.2,
        max_chosen_drop: float = 3.0,
        window: int = 50,
        stop: bool = False,
    ) -> None:
        if max_kl is not None and not max_kl > 0:
            raise ValueError(f"max_kl must be positive, got {max_kl!r}")
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window!r}")
        self.max_kl, self.max_length_ratio, self.stop, self.window = max_kl, max_length_ratio, stop, window
        self.max_repetition, self.max_unended, self.max_chosen_drop = max_repetition, max_unended, max_chosen_drop
        self._warned: list[str] = []
        self._start: dict[str, float] = {}
        self._ratios: list[float] = []
        self._sum, self._steps, self._step = torch.zeros(()), 0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that `max_kl` has an effect.

        Raises:
            UserError: `max_kl` is set and `val/kl` is not logged.
        """
        if self.max_kl is None:
            return
        if not any(isinstance(callback, Samples) and not callback.greedy for callback in callbacks_of(trainer)):
            raise UserError(
                "callbacks.guard.max_kl has no effect without val/kl: keep callbacks.samples with greedy=false"
            )
        loss = cast("DPOModule", pl_module).loss
        if not loss.needs_reference:
            raise UserError(f"callbacks.guard.max_kl has no effect: {loss!r} does not use a reference")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from where the run starts or resumes."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Average the log-ratio of the chosen answers."""
        if trainer.global_step == self._step:
            return  # not the last micro-batch of a step; reading `callback_metrics` is expensive
        self._step = trainer.global_step
        value = trainer.callback_metrics.get(_CHOSEN)
        if value is None:
            return
        self._sum, self._steps = self._sum.to(value.device) + value, self._steps + 1
        if self._steps == self.window:
            self._ratios = [*self._ratios[-2:], float(self._sum) / self._steps]
            self._sum, self._steps = torch.zeros(()), 0
            self._compare_windows(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the samples."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        kl = metrics.get("val/kl")
        if self.max_kl is not None and kl is not None and not kl <= self.max_kl:  # true for NaN too
            self._warn(trainer, "kl", now=kl, most=self.max_kl)
        now = {name: metrics[f"val/samples/{name}"] for name in _SAMPLES if f"val/samples/{name}" in metrics}
        # The baseline: samples of the reference or, without one, of the first validation.
        self._start = self._start or {
            name: metrics.get(f"val/samples/reference/{name}", value) for name, value in now.items()
        }
        start, too_far = self._start, []
        if now:
            too_far += ["length"] * (now["length"] > self.max_length_ratio * start["length"])
            too_far += ["repetition"] * (now["repetition"] > start["repetition"] + self.max_repetition)
            too_far += ["ended"] * (now["ended"] < start["ended"] - self.max_unended)
        for name in too_far:
            self._warn(trainer, name, now=now[name], start=start[name])

    def _compare_windows(self, trainer: Trainer) -> None:
        falls = len(self._ratios) == 3 and self._ratios[2] < self._ratios[1] < self._ratios[0]
        if falls and self._ratios[2] < -self.max_chosen_drop:
            self._warn(trainer, "chosen", now=self._ratios[2], before=self._ratios[1], window=self.window)

    def _warn(self, trainer: Trainer, name: str, **values: float) -> None:
        if name in self._warned:
            return
        self._warned.append(name)
        text = _WARNINGS[name].format(**values)
        if trainer.is_global_zero:
            log.warning("Guard at step %d: %s.%s", trainer.global_step, text, " Stopping." if self.stop else "")
        trainer.should_stop = trainer.should_stop or self.stop

    def state_dict(self) -> dict[str, Any]:
        """Warnings and averages so far, so that a resumed run does not repeat warnings."""
        window = {"sum": float(self._sum), "steps": self._steps}
        return {"warned": self._warned, "start": self._start, "ratios": self._ratios, "window": window}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._warned, self._start, self._ratios = (state_dict[name] for name in ("warned", "start", "ratios"))
        self._sum, self._steps = torch.tensor(state_dict["window"]["sum"]), state_dict["window"]["steps"]
