"""Supervised fine-tuning on the chosen completions: the stage before DPO."""

from dataclasses import dataclass
from typing import ClassVar

from lightning_dpo.losses.interface import PairLogps, PreferenceLoss, PreferenceLossFunction


@dataclass(frozen=True)
class SFT(PreferenceLossFunction):
    """−log π(y_w|x), in nats per token: the mean over the chosen tokens of the whole optimizer step.

    A step's loss is `sum(losses) / step_pairs`, so each sum is divided by the step's mean length: how the step was
    cut into micro-batches changes nothing. Rejected completions, references and offsets are not read.
    """

    needs_reference: ClassVar[bool] = False
    needs_rejected: ClassVar[bool] = False
    has_rewards: ClassVar[bool] = False

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        return PreferenceLoss(-logps.chosen / logps.mean_chosen_length)
