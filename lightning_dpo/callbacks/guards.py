"""What goes wrong in preference optimization while the loss looks well: said once each, with what to try."""

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
_TEXTS = {
    "chosen": "the chosen answers are less likely than under the reference and continue to fall (log-ratio {now:.2f} "
    "nats, {before:.2f} in the {window} steps before): try a smaller optimizer.lr, a larger loss.beta, or supervised "
    "fine-tuning on the chosen answers first (loss=sft)",
    "kl": "val/kl is {now:.2f} nats, beyond callbacks.guard.max_kl={most}: try a larger loss.beta, a smaller "
    "optimizer.lr or fewer epochs; best.ckpt, where there is one, is within the budget",
    "length": "sampled answers have {now:.0f} tokens, the reference's {start:.0f}: compare val/length/chosen with "
    "val/length/rejected, for length may be what is learned, and try a larger loss.beta",
    "repetition": "sampled answers repeat themselves ({now:.0%} of their four-token runs, the reference's "
    "{start:.0%}): try a smaller optimizer.lr, a larger loss.beta or fewer epochs",
    "ended": "{now:.0%} of the sampled answers end by themselves, {start:.0%} of the reference's: look whether "
    "data.max_length cuts the ends of answers off, and try a smaller optimizer.lr",
}


class Guards(Callback):
    """Watches the chosen answers' log-ratio and the policy's samples, which are compared with the reference's.

    Where there is no reference, with those of the first validation. Each guard warns once.

    Args:
        max_kl: `val/kl`, in nats per answer, beyond which the policy has gone too far; None: however far.
        max_length_ratio: Mean length of the samples over that of the reference's.
        max_repetition: By how much `val/samples/repetition` may exceed the reference's.
        max_unended: By how much `val/samples/ended` may fall below the reference's.
        max_chosen_drop: Nats by which the chosen answers may become less likely than under the reference. A
            small drop is usual, even at the optimum: the chosen answer is the better of two, not a good one.
        window: Optimizer steps over which the chosen answers' log-ratio is averaged; it is too low when it is below
            `-max_chosen_drop` and lower than in the window before, two times in a row.
        stop: End training where a guard would warn.
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
        self._said: list[str] = []
        self._start: dict[str, float] = {}
        self._ratios: list[float] = []
        self._sum, self._steps, self._step = torch.zeros(()), 0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a budget that nothing measures.

        Raises:
            UserError: `max_kl` is set, but nothing measures the KL.
        """
        if self.max_kl is None:
            return
        if not any(isinstance(callback, Samples) and not callback.greedy for callback in callbacks_of(trainer)):
            raise UserError(
                "callbacks.guard.max_kl has no effect without val/kl: keep callbacks.samples, and not greedy"
            )
        loss = cast("DPOModule", pl_module).loss
        if not loss.needs_reference:
            raise UserError(f"callbacks.guard.max_kl has no effect: {loss!r} has no reference to be far from")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from where the run goes on."""
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Average the chosen answers' log-ratio."""
        if trainer.global_step == self._step:
            return  # a micro-batch; Lightning makes `callback_metrics` anew for whoever asks
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
        if self.max_kl is not None and kl is not None and not kl <= self.max_kl:  # a NaN is too far as well
            self._say(trainer, "kl", now=kl, most=self.max_kl)
        now = {name: metrics[f"val/samples/{name}"] for name in _SAMPLES if f"val/samples/{name}" in metrics}
        self._start = self._start or {
            name: metrics.get(f"val/samples/reference/{name}", value) for name, value in now.items()
        }
        start, too_far = self._start, []
        if now:
            too_far += ["length"] * (now["length"] > self.max_length_ratio * start["length"])
            too_far += ["repetition"] * (now["repetition"] > start["repetition"] + self.max_repetition)
            too_far += ["ended"] * (now["ended"] < start["ended"] - self.max_unended)
        for name in too_far:
            self._say(trainer, name, now=now[name], start=start[name])

    def _compare_windows(self, trainer: Trainer) -> None:
        falls = len(self._ratios) == 3 and self._ratios[2] < self._ratios[1] < self._ratios[0]
        if falls and self._ratios[2] < -self.max_chosen_drop:
            self._say(trainer, "chosen", now=self._ratios[2], before=self._ratios[1], window=self.window)

    def _say(self, trainer: Trainer, name: str, **values: float) -> None:
        if name in self._said:
            return
        self._said.append(name)
        text = _TEXTS[name].format(**values)
        if trainer.is_global_zero:
            log.warning("Guard at step %d: %s.%s", trainer.global_step, text, " Stopping." if self.stop else "")
        trainer.should_stop = trainer.should_stop or self.stop

    def state_dict(self) -> dict[str, Any]:
        """What was said and seen, so that a run that goes on does not say it again."""
        return {"said": self._said, "start": self._start, "ratios": self._ratios}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        self._said, self._start, self._ratios = state_dict["said"], state_dict["start"], state_dict["ratios"]
