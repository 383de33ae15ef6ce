"""A loss as somebody writes it by the guide: without a reference, with rewards."""

from dataclasses import dataclass

import torch.nn.functional as F

from lightning_dpo.losses import PairLogps, PreferenceLoss, PreferenceLossFunction


@dataclass(frozen=True)
class SimPO(PreferenceLossFunction):
    """−log σ(β (log π(y_w)/n_w − log π(y_l)/n_l)). https://arxiv.org/abs/2405.14734 without its margin."""

    needs_reference = False
    beta: float = 2.0

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        chosen, rejected = logps.chosen / logps.chosen_length, logps.rejected / logps.rejected_length
        losses = -F.logsigmoid(self.beta * (chosen - rejected))
        return PreferenceLoss(losses, (self.beta * chosen).detach(), (self.beta * rejected).detach())


@dataclass(frozen=True)
class Silent(SimPO):
    """The same, without the rewards that it should return."""

    def __call__(self, logps: PairLogps) -> PreferenceLoss:
        return PreferenceLoss(super().__call__(logps).losses)
