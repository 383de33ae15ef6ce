"""Supervised fine-tuning on the chosen completions: the stage before DPO."""

from dataclasses import dataclass

from torch import Tensor

from lightning_dpo.losses.interface import PreferenceLossFunction
from lightning_dpo.losses.pairs import PairLogps


@dataclass(frozen=True)
class SFT(PreferenceLossFunction):
    """−log π(y_w|x), in nats per token: the mean over the chosen tokens of the whole optimizer step.

    A step's loss is `sum(losses) / step_pairs`, so each sum is divided by the step's mean length. The result does not
    depend on how the step is split into micro-batches. Rejected completions, references and offsets are not read.
    """

    needs_reference = False
    needs_rejected = False
    has_rewards = False
    reads_lengths = True
    columns = frozenset({"weight"})

    def losses(self, pairs: PairLogps) -> Tensor:
        return -pairs.chosen / pairs.mean_chosen_length
